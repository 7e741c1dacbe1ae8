"""Finds the logits in a model's output, and computes and checks their gradients.

If a part of the model runs without gradients or uses batch statistics, maps look right but are
wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import UsageError

aten = torch.ops.aten
NORMS = (aten.native_batch_norm, aten.cudnn_batch_norm, aten.miopen_batch_norm)
USES_BATCH = 5  # index of the argument that selects the statistics of the batch


class GradientPath(TorchDispatchMode):
    """`with GradientPath() as path: output = model(images)`; then `path.is_cut(output)`.

    A tensor is cut off if one of its inputs, direct or not, required gradients but was used while
    they were switched off. `.detach()` does not count, since the model then chooses its gradient.
    Raises UsageError if a normalisation uses the statistics of a batch of several images.
    """

    def __init__(self) -> None:
        super().__init__()
        # True: cut off for good. False: computed without gradients, which is also so inside the
        # forward of a torch.autograd.Function, whose result has gradients again afterwards.
        self._cut = WeakTensorKeyDictionary()

    def is_cut(self, tensor: Tensor) -> bool:
        """Whether the gradient of `tensor` is incomplete."""
        cut = self._cut.get(tensor)
        return cut is True or (cut is False and not tensor.requires_grad)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.overloadpacket in NORMS and args[USES_BATCH] and len(args[0]) > 1:
            raise UsageError(
                f"normalisation (of {len(args[0])} images): it uses the statistics of the batch, "
                "so a map would depend on the other images. Give it running averages, or give "
                "GradCAM an image at a time."
            )
        inputs = [t for t in tensors([*args, *(kwargs or {}).values()]) if t.is_floating_point()]
        on = torch.is_grad_enabled()
        cut = any(self.is_cut(t) for t in inputs)
        lost = cut or (not on and any(t.requires_grad for t in inputs))
        for_good = cut and (on or any(self._cut.get(t) is True for t in inputs))
        result = func(*args, **(kwargs or {}))
        for out in tensors(result):
            if lost and out.is_floating_point():
                self._cut[out] = for_good
        return result


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors among an operation's arguments or results, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def logits_of(output: Any, count: int) -> Tensor:
    """The logits (count, classes) in the output of a model; UsageError if they are ambiguous."""
    if isinstance(output, Tensor):
        entries: dict[Any, Any] = {"": output}
    elif isinstance(output, Mapping):
        entries = dict(output)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        entries = {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    elif isinstance(output, tuple) and hasattr(output, "_fields"):
        entries = dict(zip(output._fields, output, strict=True))
    else:
        entries = dict(enumerate(output)) if isinstance(output, (tuple, list)) else {}
    found = {key: entry for key, entry in entries.items() if _is_logits(entry, count)}
    if len(found) > 1 and "logits" in found:
        return found["logits"]
    if len(found) == 1:
        (logits,) = found.values()
        return logits
    shapes = ", ".join(
        (f"{key}: " if key != "" else "") + _describe(entry) for key, entry in entries.items()
    )
    raise UsageError(
        f"model output ({type(output).__name__}{' of ' if shapes else ''}{shapes}): {len(found)} "
        f"tensors of it are logits ({count}, classes), not one. Wrap the model in a module that "
        "returns the logits alone."
    )


def _describe(entry: Any) -> str:
    if not isinstance(entry, Tensor):
        return type(entry).__name__
    return f"{str(entry.dtype).removeprefix('torch.')} {list(entry.shape)}"


def _is_logits(entry: Any, count: int) -> bool:
    if not isinstance(entry, Tensor) or not entry.is_floating_point():
        return False
    return entry.ndim == 2 and len(entry) == count


def gradients(score: Tensor, activations: Mapping[str, Tensor]) -> list[Tensor]:
    """The gradient of `score` at each activation; UsageError if `score` does not depend on one."""
    wanted = list(activations.values())
    found: Sequence[Tensor | None] = [None] * len(wanted)
    if score.requires_grad:
        try:
            found = torch.autograd.grad(score, wanted, allow_unused=True)
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise UsageError(
                "activation checkpoint (use_reentrant=True): gradients at a layer cannot pass "
                "through it. Use use_reentrant=False, or switch checkpoints off."
            ) from None
    made = []
    for name, grad in zip(activations, found, strict=True):
        if grad is None:
            why = "the logits do not depend on it by any gradient (a detached or unused branch)"
            raise UsageError(f"layer ({name!r}): {why}. Choose a layer on the way to the logits.")
        made.append(grad)
    return made
