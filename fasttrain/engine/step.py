"""One training step: forward, loss, backward, update.

It sets the precision, compiles the forward pass and holds the learning rate. It never waits for the
device, so that the host can launch the next step early.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..optim.schedule import ratios
from ..profile.trace import span

# Keys of a parameter group that a checkpoint restores; the other settings are the recipe's.
RATES = ("params", "lr", "initial_lr", "max_lr", "min_lr")


class Step:
    """`step(images, labels)` -> (loss (), logits (B, classes)), both detached, without waiting.

    `model` stays eager; the compiled forward uses the same weights. `amp` is the dtype of autocast,
    or None for float32. With float16 there is a GradScaler, which passes its scale and its overflow
    flag to the fused optimizer as tensors, so that the host does not wait even for a skipped step.
    `scale` and `skipped` are then tensors on the device that describe the last step; otherwise they
    are None. Training calls `wrap(model)`, which averages gradients over several processes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        amp: torch.dtype | None = None,
        compile: bool = False,
        label_smoothing: float = 0.0,
        wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    ) -> None:
        self.model = model
        self._wrapped = wrap(model)
        self.optimizer = optimizer
        self.device = next(model.parameters()).device
        self.amp = amp
        self.label_smoothing = float(label_smoothing)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp is torch.float16)
        self.scale: Tensor | None = None
        self.skipped: Tensor | None = None
        self._one = torch.ones((), device=self.device)
        self._train = torch.compile(self._loss, dynamic=False) if compile else self._loss
        self._infer = torch.compile(self._predict, dynamic=False) if compile else self._predict
        self._infer_shape: torch.Size | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        try:
            loss, logits = self._train(images, labels)
        except IndexError as error:
            raise _out_of_range(error) from error
        self.scaler.scale(loss).backward()
        with span("optimizer"):
            self._update()
            self.optimizer.zero_grad(set_to_none=True)
        return loss.detach(), logits.detach()

    def predict(self, images: Tensor) -> Tensor:
        """float32 logits (B, classes) for evaluation; the caller sets eval mode and no_grad.

        The compiled forward runs for the first shape only. A shorter last batch runs eagerly,
        because a second graph costs tens of seconds and 16 images a fraction of one.
        """
        self._infer_shape = self._infer_shape or images.shape
        infer = self._infer if images.shape == self._infer_shape else self._predict
        return infer(images).float()

    def predict_mirrored(self, images: Tensor) -> Tensor:
        """The mean of the logits (B, classes) of the images and of their mirror images."""
        return (self.predict(images) + self.predict(images.flip(3))) / 2

    @property
    def lr(self) -> Tensor | float:
        """The learning rate of the first group: a 0-d tensor, or a float with apex.

        Assigning a float fills the tensor in place. The other groups keep their `ratio` to it, or
        the ratio that they had when a rate was first assigned.
        """
        return self.optimizer.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        value = value if isinstance(value, Tensor) else float(value)
        groups = self.optimizer.param_groups
        for group, ratio in zip(groups, ratios(self.optimizer), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value * ratio)
            else:
                group["lr"] = float(value * ratio)

    def state_dict(self) -> dict[str, Any]:
        """The state of model, optimizer and scaler, with the parameter names of the eager model."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state_dict; of the optimizer's settings only the rates are loaded.

        Momentum and weight decay stay the recipe's. Tensors are copied in place, so that addresses
        in a captured graph stay valid.
        """
        self.model.load_state_dict(state["model"])
        before = [dict(group) for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, mine in zip(self.optimizer.param_groups, before, strict=True):
            group.update((key, mine[key]) for key in mine if key not in RATES)
            if isinstance(mine["lr"], Tensor):  # torch replaces the tensor; keep ours
                group["lr"] = mine["lr"].fill_(group["lr"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])

    def _update(self) -> None:
        if not self.scaler.is_enabled():
            self.optimizer.step()
            return
        self.scale = self.scaler.scale(self._one)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.skipped = self.scaler.scale(self._one) < self.scale  # only a skipped step lowers it

    def _predict(self, images: Tensor) -> Tensor:
        return self._logits(self.model, images)

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None):
            return model(images)

    def _loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self._logits(self._wrapped, images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        return loss, logits


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean loss (); on a CPU, raises UsageError for a label that has no logit."""
    try:
        return F.cross_entropy(logits, labels)
    except IndexError as error:
        raise _out_of_range(error) from error


def _out_of_range(error: IndexError) -> Exception:
    """Translate torch's error for a label out of range to UsageError; return others unchanged."""
    if not (found := re.match(r"Target (-?\d+) is out of bounds", str(error))):
        return error
    return UsageError(
        f"label ({found[1]}): the model has no such class. Labels are 0 to the number of its "
        "outputs - 1: give it more outputs, or number the classes anew."
    )
