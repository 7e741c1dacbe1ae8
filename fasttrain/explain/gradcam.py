"""Grad-CAM: which parts of an image spoke for a class, for a batch of distinct targets at once.

Selvaraju et al., arXiv 1610.02391. It looks at a model in the middle of its training, compiled and
in mixed precision as it may be, and must leave no mark on it: hence the eager module, float32,
copied weights without gradients, and `torch.autograd.grad` from the layer's activation on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import UsageError
from .class_map import LAYOUTS, class_map, placed
from .gradient_path import GradientPath, gradients, logits_of
from .receptive_fields import Place, Places
from .unmarked import unmarked


class Kept(NamedTuple):
    """What a call of a layer gave: a copy for the gradient, and where its entries lie."""

    output: Any
    place: Place | None = None


class GradCAM:
    """`with GradCAM(model, "layer4") as cam: maps = cam(images, targets)`.

    The hooks live as long as the `with` block and do nothing outside of a call. A call runs the
    model in eval mode, in float32, on the model's device; parameters, their `.grad`, buffers,
    training flags and torch's random state come out as they went in.

    The model returns logits (N, classes), alone or as the one such tensor of a tuple, dict or
    dataclass, or the one named "logits" there. `call` chooses among the calls of a layer that a
    forward uses several times (-1 is the last). `channels`, "first" or "last", names the layout of
    a layer that cannot be followed back to the image, which is then divided evenly. Raises
    UsageError for a layer the model does not have, and where a map would be wrong: those choices
    missing, gradients switched off on the way, statistics of the batch.
    """

    def __init__(
        self, model: nn.Module, *layers: str, call: int | None = None, channels: str | None = None
    ) -> None:
        # A forward compiled earlier would not see the hooks.
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
        self._seen: dict[str, list[Kept]] | None = None
        self._places: Places | None = None
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> GradCAM:
        for name, module in self._layers.items():
            self._handles.append(module.register_forward_hook(self._keep(name)))
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
        """The one layer's maps: float32 (N, H, W) in [0, 1], an image's peak 1 or all of it 0."""
        if len(self._layers) > 1:
            raise ValueError(f"{len(self._layers)} layers: ask for cam.layers(images, targets)")
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

        `images` (N, C, H, W) normalised as in training, `targets` N class numbers, `size` the maps'
        (H, W) if not that of the images. A map is relu(sum over channels of w A), w being the
        spatial mean of d logit[target] / d A; it is enlarged bilinearly between the centres of the
        receptive fields, beyond them constant, then divided by its peak.
        """
        if images.ndim != 4:
            raise ValueError(f"images {tuple(images.shape)}: they must be (N, C, H, W)")
        if len(targets) != len(images):
            raise ValueError(f"{len(images)} images but {len(targets)} targets")
        if not self._handles:
            raise RuntimeError("GradCAM has no hooks outside of its with block")
        device = next((p.device for p in self._model.parameters()), images.device)
        pixels = (images.shape[2], images.shape[3])
        with unmarked(self._model, device) as inside:
            # Copies: a tensor born in inference mode could not be saved for the backward pass.
            images = images.detach().to(device, torch.float32, copy=True)
            classes = torch.as_tensor(targets).to(device, torch.int64, copy=True)
            kept, grads = inside(lambda: self._run(images, classes))
        found = {}
        for (name, (output, place)), grad in zip(kept.items(), grads, strict=True):
            place = placed(name, output, place, self._channels)
            axes = place.axes if place else LAYOUTS[self._channels or "first"]
            grid = {"pixels": pixels, "size": size or pixels}
            found[name] = class_map(
                output.detach(), grad, name=name, axes=axes, place=place, **grid
            )
        return found

    def _run(self, images: Tensor, targets: Tensor) -> tuple[dict[str, Kept], list[Tensor]]:
        """What is kept of each layer, and the gradients there of the logits of `targets`.

        In eval mode an image's logits depend on no other image: one sum serves all gradients.
        """
        seen: dict[str, list[Kept]] = {name: [] for name in self._layers}
        self._seen = seen
        try:
            with GradientPath() as path, Places(images) as self._places:
                output = self._model(images)
            self._places = None
            kept = {name: self._chosen(name, calls, len(images)) for name, calls in seen.items()}
            logits = logits_of(output, len(images))
            if path.is_cut(logits):
                raise UsageError(
                    f"model ({type(self._model).__name__}): a part of its forward runs without "
                    "gradients, and a map would leave it out. Run it without torch.no_grad or "
                    "inference_mode, and activation checkpoints with use_reentrant=False."
                )
            if ((targets < 0) | (targets >= logits.shape[1])).any():
                message = f"targets {targets.tolist()}: the model has {logits.shape[1]} classes"
                raise ValueError(message)
            # Here, with the hooks at work and the same weights: a checkpoint runs layers again.
            score = logits.gather(1, targets[:, None]).sum()
            return kept, gradients(score, {name: call.output for name, call in kept.items()})
        finally:
            self._seen = self._places = None

    def _keep(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        """A hook that keeps a copy and passes another on, for an in-place ReLU to change."""

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if self._seen is None:
                return None
            if not isinstance(output, Tensor) or not output.is_floating_point():
                self._seen[name].append(Kept(output))
                return None
            # Without a gradient the graph begins here: nothing before it is recorded.
            kept = output.clone() if output.requires_grad else output.detach().clone()
            kept.requires_grad_()
            if self._places is not None:  # not when a checkpoint runs the layer again
                self._seen[name].append(Kept(kept, self._places.of(kept)))
            return kept.clone()

        return hook

    def _chosen(self, name: str, calls: list[Kept], count: int) -> Kept:
        choose = "Choose a convolutional layer of the eager model."
        if not calls:
            why = "the model's forward did not call it, or runs compiled"
            raise UsageError(f"layer ({name!r}): {why}. {choose}")
        if len(calls) > 1 and self._call is None:
            why = f"the model's forward calls it {len(calls)} times"
            raise UsageError(f"layer ({name!r}): {why}. Give GradCAM call=-1 for the last of them.")
        if not -len(calls) <= (call := self._call or 0) < len(calls):
            why = f"the model's forward calls layer {name!r} {len(calls)} times"
            raise UsageError(
                f"call ({call}): {why}. Choose from {-len(calls)} to {len(calls) - 1}."
            )
        output = calls[call].output
        if not isinstance(output, Tensor):
            why = f"it gave {type(output).__name__}, not (N, C, H, W)"
        elif output.ndim != 4 or len(output) != count or not output.is_floating_point():
            why = f"it gave a tensor of shape {tuple(output.shape)}, not ({count}, C, H, W)"
        else:
            return calls[call]
        raise UsageError(f"layer ({name!r}): {why}. {choose}")
