"""Cross-entropy, and the errors of a loss in words that name what to change.

They are separate from the step, because evaluations need them too.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError


def single(loss: Any) -> Tensor:
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
        raise out_of_range(error) from error


def out_of_range(error: IndexError) -> Exception:
    """Translate torch's error for a label out of range to UsageError; return others unchanged."""
    if not (found := re.match(r"Target (-?\d+) is out of bounds", str(error))):
        return error
    return UsageError(
        f"label ({found[1]}): the model has no such class. Labels are 0 to the number of its "
        "outputs - 1: give it more outputs, or number the classes anew."
    )
