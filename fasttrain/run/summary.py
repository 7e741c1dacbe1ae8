"""What a run with a target is judged by: the time until it was reached, all of it.

The clock runs from the data in memory to the end of training: whitening, compiling, the range test,
evaluations and checkpoints are in it, importing and fetching are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..console.eta import duration
from ..engine.build import Built
from ..engine.loop import Epoch, Run, evaluate
from ..parallel.group import Group
from ..recipe.recipe import Recipe
from .ledger import Ledger, summarise
from .session import Session


def measure_rates(
    recipe: Recipe, built: Built, ledger: Ledger, *, log: Callable[[str], None]
) -> None:
    """Measure the matrix products that the summary compares with, before training and after it;
    say when the two differ."""
    compared = {torch.float32} if recipe.target_accuracy is not None else set()
    ledger.measure_rates(built.device, {built.step.amp or torch.float32} | compared)
    for note in ledger.notes():
        log(note)


def target_summary(
    recipe: Recipe, built: Built, history: Sequence[Epoch], ledger: Ledger, group: Group
) -> dict[str, float]:
    """For summary.json, to be called when training ends: the time to the target, if it was reached,
    and the final accuracy with test-time flips, if the recipe wants it."""
    # Measuring the machine, all of the analysis so far, is no part of training.
    seconds = ledger.total - sum(ledger.parts[name] for name in ("import", "data", "analysis"))
    found: dict[str, float] = {}
    with ledger.part("analysis"):
        target = recipe.target_accuracy
        if target is not None and max(row.test_accuracy for row in history) >= target:
            # As float32 operations at this machine's own rate, machines can be compared.
            rate = ledger.rate(torch.float32)
            found |= {
                "seconds_to_target": seconds,
                "seconds_to_target_without_compile": seconds - ledger.parts["compile"],
                "fp32_gemm_rate": rate,
                "fp32_operations_to_target": seconds * rate,
            }
        if recipe.test_flips:
            predict = built.step.predict_mirrored
            found["final_test_accuracy_with_flips"] = evaluate(
                built.step, built.test, predict=predict, total=group.sum
            )[1]
    return found


def write_summary(
    session: Session,
    built: Built,
    position: Run,
    best: Epoch | None,
    target: dict[str, float],
    *,
    finished: bool,
) -> dict[str, Any]:
    """Write and return summary.json: once after training, and as `finished` after the report.

    `best` is the epoch in best.pt and `target` what target_summary returned.
    """
    ledger = session.ledger
    with ledger.part("analysis"):
        summary = summarise(
            [row._asdict() for row in position.history],
            built.step.model,
            gemm_rates=ledger.rates[built.step.amp or torch.float32],
            best_epoch=best and best.epoch,
        )
    parts = ledger.parts
    parts["eval"] = position.eval_seconds
    parts["data_wait"] = summary["data_wait_seconds"]
    parts["train"] = summary["train_seconds"] - parts["data_wait"]
    summary |= target
    for name in ("compile", "lr_finder", "eval", "checkpoint", "analysis"):
        summary[f"{name}_seconds"] = parts[name]
    summary["mfu"] /= session.group.world  # of one device, as images/s are of all
    summary["ledger"] = ledger.split()
    summary["total_seconds"], summary["finished"] = ledger.total, finished
    session.folder.write_json("summary.json", summary)
    return summary


def headline(summary: dict[str, Any], path: Path) -> str:
    """The last line of a run: how good, how long, where."""
    if "seconds_to_target" in summary:
        seconds = summary["seconds_to_target"]
        without = summary["seconds_to_target_without_compile"]
        compiling = f" ({without:.1f} s without compiling)" if without < seconds else ""
        return (
            f"{summary['best_test_accuracy']:.2%} of the test images after {seconds:.1f} s"
            f"{compiling} with the data in memory: {path}"
        )
    return (
        f"best test accuracy {summary['best_test_accuracy']:.2%} in epoch {summary['best_epoch']}, "
        f"{duration(summary['total_seconds'])} in all: {path}"
    )
