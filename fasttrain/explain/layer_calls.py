"""The calls of a layer within one forward pass, and the choice of the one to explain.

A network may call a layer several times, never, or with an output that is no map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import UsageError
from .receptive_fields import Place


class LayerCall(NamedTuple):
    """The output of one call of a layer, as a copy for the gradient, and its place in the image."""

    output: Any
    place: Place | None = None


def select_call(
    name: str, calls: Sequence[LayerCall], count: int, *, wanted: int | None
) -> LayerCall:
    """Return the wanted one of the calls of layer `name`, as recorded for `count` images.

    Raises UsageError if there is no such call, if several leave the choice open (`wanted` None),
    or if its output is not a batch of maps.
    """
    choose = "Choose a convolutional layer of the eager model."
    if not calls:
        why = "the model's forward did not call it, or runs compiled"
        raise UsageError(f"layer ({name!r}): {why}. {choose}")
    if len(calls) > 1 and wanted is None:
        why = f"the model's forward calls it {len(calls)} times"
        raise UsageError(f"layer ({name!r}): {why}. Give GradCAM call=-1 for the last of them.")
    if not -len(calls) <= (call := wanted or 0) < len(calls):
        why = f"the model's forward calls layer {name!r} {len(calls)} times"
        raise UsageError(f"call ({call}): {why}. Choose from {-len(calls)} to {len(calls) - 1}.")
    output = calls[call].output
    if not isinstance(output, Tensor):
        why = f"it gave {type(output).__name__}, not (N, C, H, W)"
    elif output.ndim != 4 or len(output) != count or not output.is_floating_point():
        why = f"it gave a tensor of shape {tuple(output.shape)}, not ({count}, C, H, W)"
    else:
        return calls[call]
    raise UsageError(f"layer ({name!r}): {why}. {choose}")
