"""The state of a training: its progress, and a row of numbers for each finished epoch.

The loop changes it, hooks read it and checkpoints store it, so it imports none of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Epoch(NamedTuple):
    """One row of the history: accuracies are fractions, times are seconds.

    `test_` values are of the split that chooses the best epoch, val or test. `seconds` is training
    alone. `lr` is the rate of the last step, `first_lr` of the first (None in older runs).
    `skipped_steps` counts overflows of fp16. `ema_` values are of the averaged network, on the same
    images as `test_`.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float
    images_per_second: float
    data_wait_seconds: float
    skipped_steps: int = 0
    first_lr: float | None = None
    balanced_accuracy: float | None = None
    macro_f1: float | None = None
    ema_test_loss: float | None = None
    ema_test_accuracy: float | None = None
    ema_balanced_accuracy: float | None = None
    ema_macro_f1: float | None = None


@dataclasses.dataclass
class Run:
    """The progress of a training: what hooks read and checkpoints store.

    `epoch` counts finished epochs, `step` the finished steps of the current epoch. `sums` holds the
    metrics of the current epoch; it stays on the device.
    """

    epoch: int = 0
    step: int = 0
    phase: str = "train"
    sums: Tensor | None = None
    loss: Tensor | None = None
    seconds: float = 0.0
    data_wait_seconds: float = 0.0
    eval_seconds: float = 0.0
    history: list[Epoch] = dataclasses.field(default_factory=list)


Hook = Callable[[Run], None]


def random_state(device: torch.device) -> dict[str, Tensor]:
    """torch's random state of the host and, where training is on a GPU, of that GPU: dropout's."""
    on_gpu = device.type == "cuda"
    return {
        "rng": torch.get_rng_state(),
        **({"cuda_rng": torch.cuda.get_rng_state(device)} if on_gpu else {}),
    }


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Set what `random_state` gave; the state of a GPU only on one, and if there is one."""
    torch.set_rng_state(state["rng"])
    if device.type == "cuda" and "cuda_rng" in state:
        torch.cuda.set_rng_state(state["cuda_rng"], device)
