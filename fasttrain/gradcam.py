"""Grad-CAM: which parts of an image spoke for a class, for a batch of distinct targets at once.

Selvaraju et al., arXiv 1610.02391. It looks at a model in the middle of its training, compiled and
in mixed precision as it may be, and must leave no mark on it: hence the eager module, float32,
weights without gradients, and `torch.autograd.grad` from the layer's activation on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from .errors import UsageError


class GradCAM:
    """`with GradCAM(model, "layer4") as cam: maps = cam(images, targets)`.

    The hooks live as long as the `with` block and do nothing outside of a call. A call runs the
    model in eval mode, in float32, on the model's device; parameters, their `.grad`, buffers and
    training flags come out as they went in. Raises UsageError for a layer the model does not have.
    """

    def __init__(self, model: nn.Module, *layers: str) -> None:
        # A forward compiled earlier would not see the hooks.
        self._model: nn.Module = getattr(model, "_orig_mod", model)
        modules = dict(self._model.named_modules(remove_duplicate=False))
        known = ", ".join(name for name in modules if name)
        for layer in layers or ("",):
            if not layer or layer not in modules:
                why = "the model has no module of that name"
                raise UsageError(f"layer ({layer!r}): {why}. Choose among {known}.")
        self._layers = {layer: modules[layer] for layer in layers}
        self._seen: dict[str, Any] | None = None
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
        spatial mean of d logit[target] / d A; it is enlarged bilinearly, then divided by its peak.
        """
        if len(targets) != len(images):
            raise ValueError(f"{len(images)} images but {len(targets)} targets")
        if not self._handles:
            raise RuntimeError("GradCAM has no hooks outside of its with block")
        device = next((p.device for p in self._model.parameters()), images.device)
        with _undisturbed(self._model, device):
            # Copies: a tensor born in inference mode could not be saved for the backward pass.
            images = images.detach().to(device, torch.float32, copy=True)
            classes = torch.as_tensor(targets).to(device, torch.int64, copy=True)
            seen, scores = self._run(images, classes)
            grads = torch.autograd.grad(scores, list(seen.values()), materialize_grads=True)
        size = size or (images.shape[2], images.shape[3])
        pairs = zip(seen.items(), grads, strict=True)
        return {name: _map(kept.detach(), grad, size) for (name, kept), grad in pairs}

    def _run(self, images: Tensor, targets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The activations by layer and the sum over the batch of the logits of `targets`.

        In eval mode an image's logits depend on no other image: one sum serves all gradients.
        """
        self._seen = {}
        try:
            logits = torch.func.functional_call(self._model, _weights(self._model), (images,))
            seen = {name: _checked(name, self._seen.get(name)) for name in self._layers}
        finally:
            self._seen = None
        if ((targets < 0) | (targets >= logits.shape[1])).any():
            raise ValueError(f"targets {targets.tolist()}: the model has {logits.shape[1]} classes")
        return seen, logits.gather(1, targets[:, None]).sum()

    def _keep(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        """A hook that keeps the output and passes a copy on, for an in-place ReLU to change."""

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if self._seen is None:
                return None
            self._seen[name] = output
            if not isinstance(output, Tensor):
                return None
            if not output.requires_grad:  # the graph begins here: nothing before it is recorded
                output = self._seen[name] = output.detach().requires_grad_()
            return output.clone()

        return hook


@contextlib.contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode, gradients on, autocast off, whatever the caller had; training flags put back."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            yield
    finally:
        for module, flag in flags:
            module.training = flag


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that want no gradient, in float32; those that are share memory."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: tensor.detach().float() if tensor.is_floating_point() else tensor
        for name, tensor in named.items()
    }


def _checked(name: str, output: Any) -> Tensor:
    if isinstance(output, Tensor) and output.ndim == 4:
        return output
    found = "a tensor of shape " + str(tuple(output.shape)) if isinstance(output, Tensor) else None
    why = f"it gave {found or type(output).__name__}, not (N, C, H, W)"
    if output is None:
        why = "the model's forward did not call it, or runs compiled"
    raise UsageError(f"layer ({name!r}): {why}. Choose a convolutional layer of the eager model.")


def _map(activation: Tensor, grad: Tensor, size: tuple[int, int]) -> Tensor:
    """One layer's maps (N, H, W) in [0, 1]."""
    weights = grad.mean(dim=(2, 3), keepdim=True)
    maps = F.relu((weights * activation).sum(dim=1, keepdim=True))
    maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)[:, 0]
    peaks = maps.amax(dim=(1, 2), keepdim=True)
    return maps / peaks.where(peaks > 0, torch.ones_like(peaks))
