"""Stands for CUDA graphs on a CPU: counts launches, and replays a step without running its Python.

A launch is an operation that computes something: on a GPU it is at least one kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NO_WORK = ("_unsafe_view", "_reshape_alias", "detach", "empty", "empty_like", "empty_strided")


def works(op: Any) -> bool:
    """Whether an operation computes anything."""
    namespace, _, name = op._schema.name.partition("::")
    return not op.is_view and name not in NO_WORK and namespace != "profiler"


class Launches(TorchDispatchMode):
    """The names of the operations inside the block that compute something, in `names`."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if works(func):
            self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if works(func):
            self.calls.append((func, args, kwargs or {}, outputs))
        return outputs


class Tape:
    """A `Capture` as `cuda_graph` is one: warms up, records, and replays the recorded operations.

    A replay runs them on the recorded tensors, as a graph runs its kernels on recorded addresses.
    """

    def __init__(self) -> None:
        self.captures = self.replays = self.launches = 0

    def __call__(self, function: Callable[[], tuple[Tensor, ...]]) -> Any:
        self.captures += 1
        for _ in range(3):
            function()
        with _Recording() as recorded:
            outputs = function()
        self.launches = len(recorded.calls)

        @torch.no_grad()
        def replay() -> None:
            self.replays += 1
            for func, args, kwargs, before in recorded.calls:
                after = func(*args, **kwargs)
                for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
                    if isinstance(old, Tensor) and old is not new:
                        old.detach().copy_(new)

        return replay, outputs


def to_meta(step: Any) -> Any:
    """Move a Step to the meta device, where any read of a value on the host raises; return it.

    Meta tensors have no values, so that an epoch of launches takes no time.
    """

    def meta(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)

    for weight in step.model.parameters():
        values = step.optimizer.state[weight]
        values.update({name: meta(value) for name, value in values.items()})
        torch.utils.swap_tensors(weight, nn.Parameter(meta(weight), weight.requires_grad))
    for module in step.model.modules():
        module._buffers.update({name: meta(each) for name, each in module._buffers.items()})
    for module in () if step.average is None else step.average.modules():
        for kept in (module._parameters, module._buffers):
            kept.update({name: meta(each) for name, each in kept.items() if each is not None})
    for holder in (vars(step), vars(step.scaler), *step.optimizer.param_groups):
        found = {name: meta(each) for name, each in holder.items() if isinstance(each, Tensor)}
        holder.update(found)
    step.optimizer._need_device_dtype_check_for_fused = False
    step.device = torch.device("meta")
    step._logits = lambda model, images: model(images)  # meta tensors have no autocast
    return step
