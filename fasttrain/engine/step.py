"""One training step: forward, loss, backward, update, metrics.

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
from . import metrics
from .gradients import Gradients, whole

# Keys of a parameter group that a checkpoint restores; the other settings are the recipe's.
RATES = ("params", "lr", "initial_lr", "max_lr", "min_lr")


class Step:
    """`step(images, labels)` -> (loss (), logits (B, classes)), both detached, without waiting.

    Each call also adds the step's metrics to `sums`, a tensor on the device (see metrics.py).
    `model` stays eager; the compiled forward and loss use the same weights. `amp` is the dtype of
    autocast, or None for float32. With float16 there is a GradScaler, which passes its scale and
    its overflow flag to the fused optimizer as tensors, so that the host does not wait even for a
    skipped step. Training calls `wrap(model)`, which averages gradients over several processes.
    `class_weights` (classes,) multiply the images' losses; their mean over all images should be 1.
    `gradients` computes them, of the whole batch at once by default. `loss` takes the place of
    cross-entropy: loss(logits float32 (B, classes), labels (B,)) -> (), the mean over the images.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        amp: torch.dtype | None = None,
        compile: bool = False,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
        gradients: Gradients = whole,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        if loss is not None and (label_smoothing or class_weights is not None):
            raise UsageError(
                "loss (a function): takes the place of cross-entropy, and of its label_smoothing "
                "and class_weights. Leave these out."
            )
        self.model = model
        self._wrapped = wrap(model)
        self._gradients, self._own_loss = gradients, loss
        self.optimizer = optimizer
        self.device = next(model.parameters()).device
        self.amp = amp
        self.label_smoothing = float(label_smoothing)
        self.class_weights = class_weights
        if class_weights is not None:
            self.class_weights = class_weights.to(self.device, torch.float32)
        self.sums = metrics.zeros(self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp is torch.float16)
        self._one = torch.ones((), device=self.device)
        self.scaler.scale(self._one)  # makes its tensors, which a captured step writes to
        self._train = torch.compile(self._loss, dynamic=False) if compile else self._loss

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        try:
            loss, logits = self._gradients(self._train, self.scaler.scale, images, labels)
        except IndexError as error:
            raise _out_of_range(error) from error
        with span("optimizer"):
            scale, skipped = self._update()
            self.optimizer.zero_grad(set_to_none=True)
        loss, logits = loss.detach(), logits.detach()
        metrics.record_step(self.sums, self.lr, scale=scale, skipped=skipped)
        metrics.update(self.sums, loss, logits, labels)
        return loss, logits

    def predict(self, images: Tensor) -> Tensor:
        """float32 logits (B, classes) for evaluation; the caller sets eval mode and no_grad.

        It is eager also in a compiled step: compiling it too would cost tens of seconds more.
        """
        return self._logits(self.model, images).float()

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

    def _update(self) -> tuple[Tensor | None, Tensor | None]:
        """Update the weights; return the loss scale and whether it skipped the step, if scaled."""
        if not self.scaler.is_enabled():
            self.optimizer.step()
            return None, None
        scale = self.scaler.scale(self._one)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return scale, self.scaler.scale(self._one) < scale  # only a skipped step lowers it

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None):
            return model(images)

    def _loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self._logits(self._wrapped, images)
        smoothing = self.label_smoothing
        if self._own_loss is not None:
            return _single(self._own_loss(logits.float(), labels)), logits
        if self.class_weights is None:
            return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing), logits
        # Divided by the images, not by their weights as torch's mean is: parts of a batch on
        # several processes then have the whole batch's gradient as their mean.
        weights = self.class_weights
        total = F.cross_entropy(
            logits.float(), labels, weights, reduction="sum", label_smoothing=smoothing
        )
        return total / len(labels), logits


def _single(loss: Any) -> Tensor:
    """Return the result of a user's loss function; UsageError unless it is one number."""
    if not isinstance(loss, Tensor) or loss.shape != ():
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise UsageError(f"loss ({shape}): must be a tensor of one number (). Return the mean.")
    return loss


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
