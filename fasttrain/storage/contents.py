"""The check of what a checkpoint may hold: dense finite tensors, plain values, lists and dicts.

It is separate from saving, so that a run can check its state before the first epoch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor

NOT_FINITE = "numbers that are not finite"
_PLAIN = (str, int, float, bool, type(None))


def _leaves(tree: object) -> Iterator[object]:
    """Yield every key and value in nested dicts, lists and tuples; visit each container once."""
    stack, seen = [tree], set()
    while stack:
        if type(item := stack.pop()) not in (dict, OrderedDict, list, tuple):
            yield item
        elif id(item) not in seen:
            seen.add(id(item))
            stack += [*item, *item.values()] if isinstance(item, dict) else item  # type: ignore


def flaw(tree: object) -> str | None:
    """Describe what in `tree` a checkpoint may not hold; None if there is nothing."""
    for leaf in _leaves(tree):
        if isinstance(leaf, Tensor):
            if not _is_dense(leaf):
                return f"a tensor that is not dense ({leaf.layout}, {leaf.dtype})"
            if leaf.is_floating_point() and not torch.isfinite(leaf).all():
                return NOT_FINITE
        elif type(leaf) not in _PLAIN:
            return f"an object of {type(leaf).__module__}.{type(leaf).__qualname__}"
    return None


def _is_dense(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    odd = tensor.is_quantized or tensor.is_nested or tensor.is_meta
    return plain and not odd and tensor.nbytes <= tensor.untyped_storage().nbytes()
