"""Where the time of a run went, and how much of the hardware it used."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

GEMM_SIDE = 2048
PARTS = ("import", "data", "lr_finder", "compile", "train", "data_wait", "eval", "checkpoint")


class Ledger:
    """Seconds of each part of a run since `began` (of perf_counter), over all its sessions."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.parts = dict.fromkeys((*PARTS, "analysis"), 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge a block's time to a part."""
        entered = perf_counter()
        try:
            yield
        finally:
            self.parts[name] += perf_counter() - entered

    @property
    def total(self) -> float:
        """Seconds of all sessions so far."""
        return perf_counter() - self.began

    def split(self) -> dict[str, float]:
        """The parts with what none of them explains as `other`: they add up to the total."""
        return {**self.parts, "other": self.total - sum(self.parts.values())}

    def state_dict(self) -> dict[str, float]:
        return {**self.parts, "total": self.total}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from an earlier session's sums."""
        self.began -= state["total"]
        for name in self.parts:
            self.parts[name] += state[name]


def training_flops(model: nn.Module, shape: tuple[int, int, int] = (3, 32, 32)) -> int:
    """Floating-point operations of one training image: convolutions and linear layers, forward and
    backward, a multiply-add counted as two; from torch's counter on a model without storage."""
    twin = copy.deepcopy(model).to("meta").train()
    images = torch.empty(2, *shape, device="meta")  # BatchNorm refuses a batch of one
    with FlopCounterMode(display=False) as counter:
        twin(images).sum().backward()
    return counter.get_total_flops() // 2


@lru_cache
def gemm_rate(device: torch.device, dtype: torch.dtype, *, tries: int = 15) -> float:
    """Measured FLOP/s of a 2048^3 matrix product on `device`, the best of `tries`: MFU's
    denominator."""
    a = torch.randn(GEMM_SIDE, GEMM_SIDE, device=device).to(dtype)
    best = float("inf")
    for _ in range(tries):
        _wait(device)
        began = perf_counter()
        for _ in range(20 if device.type == "cuda" else 1):
            a @ a
        _wait(device)
        best = min(best, perf_counter() - began)
    return 2 * GEMM_SIDE**3 * (20 if device.type == "cuda" else 1) / best


def summarise(
    rows: Sequence[dict[str, Any]],
    model: nn.Module,
    *,
    device: torch.device,
    dtype: torch.dtype,
    best_epoch: int | None = None,
) -> dict[str, Any]:
    """The headline numbers of a history (rows of metrics.jsonl), for summary.json.

    The best epoch is the one whose weights were kept, else the first of the highest accuracy.
    `mfu` is the share of this device's own measured GEMM rate in `dtype` that the training of all
    epochs used, evaluation apart.
    """
    kept = [row for row in rows if row["epoch"] == best_epoch]
    best = max(kept or rows, key=lambda row: row["test_accuracy"])
    seconds = sum(row["seconds"] for row in rows)
    images = sum(row["seconds"] * row["images_per_second"] for row in rows)
    return {
        "model_parameters": sum(p.numel() for p in model.parameters()),
        "epochs": len(rows),
        "best_test_accuracy": best["test_accuracy"],
        "best_epoch": best["epoch"],
        "final_test_accuracy": rows[-1]["test_accuracy"],
        "train_seconds": seconds,
        "images_per_second": images / seconds,
        "data_wait_seconds": sum(row["data_wait_seconds"] for row in rows),
        "mfu": training_flops(model) * images / seconds / gemm_rate(device, dtype),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
