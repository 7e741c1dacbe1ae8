"""Records how a run spends its time, and computes its headline numbers such as MFU.

Speeds alone do not compare across machines, so the machine's own GEMM rate is measured too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import nn

from ..models.flops import training_flops

# A product of side 2048 does not fill a large GPU.
GEMM_SIDES = {"cpu": (256, 512, 1024, 2048), "cuda": (256, 1024, 4096, 8192)}
GEMM_TRIES = 15
GEMM_SECONDS = 1.0  # time limit of one rate measurement, on slow machines too
DIFFERS = 0.25  # relative to the higher rate: idle machines stay within a tenth
TF32 = "tf32"  # float32 as a GPU's tensor cores multiply it: a rate of its own
Arithmetic = torch.dtype | str
PARTS = (
    "import",
    "data",
    "tune",
    "lr_finder",
    "compile",
    "train",
    "data_wait",
    "eval",
    "checkpoint",
)


class Ledger:
    """Seconds of each part of a run since `began` (perf_counter), summed over all sessions."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.parts = dict.fromkeys((*PARTS, "analysis"), 0.0)
        self.rates: dict[Arithmetic, list[float]] = {}  # measured GEMM rates

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to the part `name`."""
        entered = perf_counter()
        try:
            yield
        finally:
            self.parts[name] += perf_counter() - entered

    @property
    def total(self) -> float:
        """Return the seconds of all sessions so far."""
        return perf_counter() - self.began

    def split(self) -> dict[str, float]:
        """Return all parts, plus the remaining time as `other`: they add up to the total."""
        return {**self.parts, "other": self.total - sum(self.parts.values())}

    def measure_rates(self, device: torch.device, kinds: set[Arithmetic]) -> None:
        """Measure the GEMM rate in each of `kinds`; the time counts as analysis."""
        with self.part("analysis"):
            for kind in kinds:
                self.rates.setdefault(kind, []).append(gemm_rate(device, kind))

    def rate(self, kind: Arithmetic) -> float:
        """Return the highest measured FLOP/s in `kind`: the one least slowed by other programs."""
        return max(self.rates[kind])

    def notes(self) -> list[str]:
        """Return one line for each rate that differs before and after training."""
        return [
            f"the rate of matrix products in {str(kind).removeprefix('torch.')} differs: "
            f"{rates[0] / 1e9:,.0f} GFLOP/s before training, {rates[-1] / 1e9:,.0f} after it. "
            "Something else ran on this machine: take speeds and mfu with care"
            for kind, rates in self.rates.items()
            if min(rates[0], rates[-1]) < (1 - DIFFERS) * max(rates[0], rates[-1])
        ]

    def state_dict(self) -> dict[str, float]:
        return {**self.parts, "total": self.total}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from the sums of an earlier session."""
        self.began -= state["total"]
        for name in self.parts:
            self.parts[name] += state.get(name, 0.0)  # release 0.1 tuned nothing


def arithmetic(amp: torch.dtype | None, device: torch.device) -> Arithmetic:
    """Return what the matrix products of a training with autocast to `amp` are computed in."""
    tf32 = device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return amp or (TF32 if tf32 else torch.float32)


def gemm_rate(device: torch.device, kind: Arithmetic, *, seconds: float = GEMM_SECONDS) -> float:
    """Measure the FLOP/s of a square matrix product on `device` within about `seconds`.

    This is the denominator of MFU: the best of 15 products of side 2048, on a GPU 8192, or of fewer
    and smaller ones if these take too long. float32 is measured without TF32.
    """
    calls = 20 if device.type == "cuda" else 1  # timing one call on a GPU would include the wait
    dtype = torch.float32 if isinstance(kind, str) else kind

    # torch's global generator is not used: the number of products timed depends on the clock, so
    # a run's dropout would depend on it too.
    numbers = torch.Generator(device).manual_seed(0)

    def product(side: int) -> float:
        a = torch.randn(side, side, device=device, generator=numbers).to(dtype)
        _wait(device)
        began = perf_counter()
        for _ in range(calls):
            a @ a
        _wait(device)
        return (perf_counter() - began) / calls

    with _tf32(kind == TF32):
        return _best_rate(product, seconds / calls, GEMM_SIDES[device.type])


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Set for the block whether a GPU may multiply float32 with its tensor cores."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _best_rate(
    product: Callable[[int], float], seconds: float, sides: Sequence[int] = GEMM_SIDES["cpu"]
) -> float:
    """Return the FLOP/s of `product`, which returns the seconds of one product of a given side.

    Signals are handled only between two products, so no product is started that would take over a
    third of `seconds`.
    """
    spent, best = 0.0, float("inf")
    for side, larger in zip(sides, (*sides[1:], None), strict=True):
        best = float("inf")
        for _ in range(GEMM_TRIES if larger is None else 2):  # the first is a warm-up
            took = product(side)
            spent, best = spent + took, min(best, took)
            if spent + best > seconds:
                return 2 * side**3 / best
        if larger and best * (larger / side) ** 3 > seconds / 3:
            break
    return 2 * side**3 / best


def summarise(
    rows: Sequence[dict[str, Any]],
    model: nn.Module,
    *,
    gemm_rates: Sequence[float],
    best_epoch: int | None = None,
    held_out: str = "test",
    side: int = 32,
) -> dict[str, Any]:
    """Return the headline numbers of a history (rows of metrics.jsonl), for summary.json.

    The best epoch is the one whose weights were kept, or else the first with the highest accuracy.
    `gemm_rates` are this device's rates in the training dtype, measured before and after training.
    `mfu` is the share of the higher rate that training used over all epochs, without evaluation.
    `held_out` names the split that the rows' `test_` values refer to.
    """
    kept = [row for row in rows if row["epoch"] == best_epoch]
    best = max(kept or rows, key=lambda row: row["test_accuracy"])
    seconds = sum(row["seconds"] for row in rows)
    images = sum(row["seconds"] * row["images_per_second"] for row in rows)
    return {
        "model_parameters": sum(p.numel() for p in model.parameters()),
        "epochs": len(rows),
        f"best_{held_out}_accuracy": best["test_accuracy"],
        "best_epoch": best["epoch"],
        f"final_{held_out}_accuracy": rows[-1]["test_accuracy"],
        "train_seconds": seconds,
        "images_per_second": images / seconds,
        "data_wait_seconds": sum(row["data_wait_seconds"] for row in rows),
        "mfu": training_flops(model, (3, side, side)) * images / seconds / max(gemm_rates),
        "gemm_rate_before": gemm_rates[0],
        "gemm_rate_after": gemm_rates[-1],
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
