"""Copies of a training state on the host, for which neither a GPU nor the training loop waits.

A checkpoint of ResNet18 has 187 tensors. One by one, each would stop the loop until the GPU has
done all that was launched before, and its own copy into pageable memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor


class HostCopies:
    """Copies of nested containers whose tensors are on the host; one copy at a time.

    `begin` takes the copy of what is on a GPU there, in a launch or two. What it returns moves it
    to the host on a stream of its own, and waits for that: a saving thread calls it.
    """

    def __init__(self) -> None:
        self._pinned = torch.empty(0, dtype=torch.uint8)
        self._stream: torch.cuda.Stream | None = None

    def begin(self, tree: Any) -> Callable[[], Any]:
        """Copy `tree` as it is now; return a function that waits for the copy and returns it.

        The copy is valid until the function of the next copy is called.
        """
        found = {id(tensor): tensor for tensor in _tensors(tree) if _is_on_gpu(tensor)}
        if not found:
            copied = on_host(tree)
            return lambda: copied
        # The largest numbers first, so that each tensor is aligned in the buffer.
        on_gpu = sorted(found.values(), key=Tensor.element_size, reverse=True)
        kept = _mapped(tree, lambda tensor: tensor if _is_on_gpu(tensor) else on_host(tensor))
        self._stream = self._stream or torch.cuda.Stream(on_gpu[0].device)
        flat, taken = packed(on_gpu), torch.cuda.Event()
        taken.record()
        return partial(self._moved, kept, on_gpu, flat, taken)

    def _moved(
        self, tree: Any, on_gpu: Sequence[Tensor], flat: Tensor, taken: torch.cuda.Event
    ) -> Any:
        if len(self._pinned) < len(flat):
            self._pinned = _pinned(len(flat))
        assert self._stream is not None
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(taken)
            self._pinned[: len(flat)].copy_(flat, non_blocking=True)
            arrived = torch.cuda.Event(blocking=True)  # the thread sleeps, and takes no core
            arrived.record()
        arrived.synchronize()
        ids = [id(tensor) for tensor in on_gpu]
        there = dict(zip(ids, unpacked(self._pinned, on_gpu), strict=True))
        return _mapped(tree, lambda tensor: there.get(id(tensor), tensor))


def on_host(tree: Any) -> Any:
    """A copy of nested containers whose tensors are on the CPU and share no memory with `tree`."""
    return _mapped(tree, lambda tensor: tensor.detach().to("cpu", copy=True))


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """The bytes of `tensors`, of one device, one behind the other: uint8 (bytes,)."""
    flat = (_dense(tensor).as_strided((tensor.numel(),), (1,)) for tensor in tensors)
    return torch.cat([each.view(torch.uint8) for each in flat])


def unpacked(buffer: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors whose bytes are in `buffer`, on the CPU, of the form of `tensors`.

    Each is a storage of its own, as torch.save needs it: it would save all of a shared one.
    """
    memory, at, found = buffer.numpy(), 0, []
    for like in tensors:
        made = torch.empty(0, dtype=like.dtype)
        if like.numel():
            made = torch.frombuffer(memory, dtype=like.dtype, count=like.numel(), offset=at)
        found.append(made.as_strided(like.shape, _dense(like).stride()))
        at += like.nbytes
    return found


def _dense(tensor: Tensor) -> Tensor:
    """`tensor` itself, or a copy without gaps in its memory."""
    dense = torch.ops.aten.is_non_overlapping_and_dense(tensor)
    return tensor.detach() if dense else tensor.detach().contiguous()


def _is_on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _pinned(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def _tensors(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _mapped(tree, found.append)
    return found


def _mapped(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    """A copy of nested containers with every tensor replaced by `change(tensor)`."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        copied = copy.copy(tree)  # a state_dict carries its versions as an attribute
        copied.update({key: _mapped(value, change) for key, value in tree.items()})
        return copied
    if isinstance(tree, (list, tuple)):
        return type(tree)(_mapped(value, change) for value in tree)
    return tree
