"""Grad-CAM: which parts of an image support a class, for a batch with one target per image.

Selvaraju et al., arXiv 1610.02391. The model may be in training, compiled and in mixed precision,
and must not be changed. So this uses the eager module, float32 copies of the weights without
gradients, and `torch.autograd.grad` down to the layer's activation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import UsageError
from .class_map import LAYOUTS, class_map, resolve_place
from .gradient_path import GradientPath, gradients, logits_of
from .isolated import isolated
from .layer_calls import LayerCall, select_call
from .receptive_fields import Places


class GradCAM:
    """`with GradCAM(model, "layer4") as cam: maps = cam(images, targets)`.

    The hooks exist only inside the `with` block and do nothing outside of a call. A call runs the
    model in eval mode, in float32, on the model's device. It leaves parameters, their `.grad`,
    buffers, training flags and torch's random state unchanged.

    The model returns logits (N, classes), alone or in a tuple, dict or dataclass. There they must
    be the only tensor of that shape, or be named "logits". If a forward calls a layer several
    times, `call` selects one of the calls (-1 is the last). `channels`, "first" or "last", is the
    layout of a layer whose output cannot be traced back to the image, which is then divided evenly.
    Raises UsageError for a layer that the model does not have, and if a map would be wrong: `call`
    or `channels` is missing, gradients are switched off on the way, or batch statistics are used.
    """

    def __init__(
        self, model: nn.Module, *layers: str, call: int | None = None, channels: str | None = None
    ) -> None:
        # A forward that was compiled earlier would ignore the hooks.
        self._model: nn.Module = getattr(model, "_orig_mod", model)
        modules = dict(self._model.named_modules(remove_duplicate=False))
        known = ", ".join(name for name in modules if name)
        for layer in layers or ("",):
            if not layer or layer not in modules:
                why = "the model has no module of that name"
                raise UsageError(f"layer ({layer!r}): {why}. Choose among {known}.")
        if channels not in (None, *LAYOUTS):
            why = "not a layout"
            raise UsageError(f"channels ({channels!r}): {why}. Choose 'first' or 'last'.")
        self._layers = {layer: modules[layer] for layer in layers}
        self._call, self._channels = call, channels
        self._calls: dict[str, list[LayerCall]] | None = None
        self._places: Places | None = None
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> GradCAM:
        for name, module in self._layers.items():
            self._handles.append(module.register_forward_hook(self._recorder(name)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def __call__(
        self,
        images: Tensor,
        targets: Tensor | Sequence[int],
        *,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """The maps of the one layer: float32 (N, H, W) in [0, 1], with a peak of 1 or all 0."""
        if len(self._layers) > 1:
            raise ValueError(f"{len(self._layers)} layers: use cam.layers(images, targets)")
        (maps,) = self.layers(images, targets, size=size).values()
        return maps

    def layers(
        self,
        images: Tensor,
        targets: Tensor | Sequence[int],
        *,
        size: tuple[int, int] | None = None,
    ) -> dict[str, Tensor]:
        """The maps of every layer, by name, from one forward and one backward pass.

        `images` (N, C, H, W) are normalised as in training, `targets` are N class numbers, `size`
        is the (H, W) of the maps, by default that of the images. A map is relu(sum over channels of
        w A), where w is the spatial mean of d logit[target] / d A. It is interpolated bilinearly
        between the centres of the receptive fields, is constant beyond them, and is divided by its
        peak.
        """
        if images.ndim != 4:
            raise ValueError(f"images {tuple(images.shape)}: they must be (N, C, H, W)")
        if len(targets) != len(images):
            raise ValueError(f"{len(images)} images but {len(targets)} targets")
        if not self._handles:
            raise RuntimeError("GradCAM has no hooks outside of its with block")
        device = next((p.device for p in self._model.parameters()), images.device)
        pixels = (images.shape[2], images.shape[3])
        with isolated(self._model, device) as run:
            # Copies, because an inference tensor cannot be saved for the backward pass.
            images = images.detach().to(device, torch.float32, copy=True)
            classes = torch.as_tensor(targets).to(device, torch.int64, copy=True)
            kept, grads = run(lambda: self._run(images, classes))
        found = {}
        for (name, (output, place)), grad in zip(kept.items(), grads, strict=True):
            place = resolve_place(name, output, place, self._channels)
            axes = place.axes if place else LAYOUTS[self._channels or "first"]
            grid = {"pixels": pixels, "size": size or pixels}
            found[name] = class_map(
                output.detach(), grad, name=name, axes=axes, place=place, **grid
            )
        return found

    def _run(self, images: Tensor, targets: Tensor) -> tuple[dict[str, LayerCall], list[Tensor]]:
        """The recorded call of each layer, and the gradients of the target logits there.

        In eval mode images are independent: one sum gives the gradients of all of them.
        """
        seen: dict[str, list[LayerCall]] = {name: [] for name in self._layers}
        self._calls = seen
        try:
            with GradientPath() as path, Places(images) as self._places:
                output = self._model(images)
            self._places = None
            kept = {
                name: select_call(name, calls, len(images), wanted=self._call)
                for name, calls in seen.items()
            }
            logits = logits_of(output, len(images))
            if path.is_cut(logits):
                raise UsageError(
                    f"model ({type(self._model).__name__}): a part of its forward runs without "
                    "gradients, and a map would omit it. Run it without torch.no_grad or "
                    "inference_mode, and activation checkpoints with use_reentrant=False."
                )
            if ((targets < 0) | (targets >= logits.shape[1])).any():
                message = f"targets {targets.tolist()}: the model has {logits.shape[1]} classes"
                raise ValueError(message)
            # Inside the hooks and with the same weights: a checkpoint runs layers again.
            score = logits.gather(1, targets[:, None]).sum()
            return kept, gradients(score, {name: call.output for name, call in kept.items()})
        finally:
            self._calls = self._places = None

    def _recorder(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        """Make a hook that records one copy and returns another, for in-place ReLUs to change."""

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if self._calls is None:
                return None
            if not isinstance(output, Tensor) or not output.is_floating_point():
                self._calls[name].append(LayerCall(output))
                return None
            # Without a gradient the autograd graph starts here: nothing earlier is recorded.
            kept = output.clone() if output.requires_grad else output.detach().clone()
            kept.requires_grad_()
            if self._places is not None:  # it is None if a checkpoint runs the layer again
                self._calls[name].append(LayerCall(kept, self._places.of(kept)))
            return kept.clone()

        return hook
