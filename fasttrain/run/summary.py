"""What a run with a target is judged by: the time until it was reached, all of it.

The clock runs from the data in memory to the end of training: whitening, compiling, the range test,
evaluations and checkpoints are in it, importing and fetching are not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..console.eta import duration
from ..data import Data, Split
from ..data.origin import about
from ..engine import monitors
from ..engine.build import Built
from ..engine.loop import Epoch, Run, evaluate
from ..recipe.recipe import Recipe
from ..storage import checkpoint
from .ledger import Ledger, summarise
from .rundir import RunDir
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
    session: Session, data: Data, built: Built, history: Sequence[Epoch]
) -> dict[str, float]:
    """For summary.json, to be called when training ends: the time to the target, if it was reached,
    and the final accuracy with test-time flips, if the recipe wants it."""
    recipe, ledger, group = session.recipe, session.ledger, session.group
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
            found[f"final_{data.chooses}_accuracy_with_flips"] = evaluate(
                built.step, built.test, predict=predict, total=group.sum
            )[1]
    return found


def final_summary(session: Session, built: Built) -> dict[str, float]:
    """Loss and accuracy of the best checkpoint on a test set that chose nothing, evaluated once;
    empty without one. The step has that checkpoint's weights afterwards."""
    if built.final is None:
        return {}
    folder, group, best = session.folder, session.group, None
    with session.ledger.part("eval"):
        if isinstance(folder, RunDir):
            best = checkpoint.load(folder.path / "checkpoints" / "best.pt")["model"]
        built.step.model.load_state_dict(group.broadcast(best))
        loss, accuracy = evaluate(built.step, built.final, total=group.sum)
    return {"test_accuracy": accuracy, "test_loss": loss}


def data_summary(data: Data, monitor: str) -> dict[str, Any]:
    """For summary.json: what was trained on, and what chose the best epoch."""
    found = {"data": about(data), "chosen_by": data.chooses, "monitor": monitor}
    found["images"] = {name: len(split.labels) for name, split in parts(data).items()}
    return found


def class_summary(run: Path) -> dict[str, Any]:
    """For summary.json, of class_accuracy.json: means in which every class counts the same, and
    each class's recall; empty where that file is missing or of an older release."""
    try:
        found = json.loads((run / "class_accuracy.json").read_text(encoding="utf-8"))
        means = {name: found[name] for name in monitors.UNEQUAL}
        return {**means, "recall": {row["name"]: row["accuracy"] for row in found["classes"]}}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def parts(data: Data) -> dict[str, Split]:
    """The splits by their names."""
    held = {data.chooses: data.held_out}
    return {"train": data.train, **held, **({"test": data.test} if data.val is not None else {})}


def counts(data: Data) -> str:
    """Images by split, and what they are of."""
    images = (f"{len(split.labels):,} {name}" for name, split in parts(data).items())
    size = f"{data.side} x {data.side}"
    return f"{' and '.join(images)} images of {data.name}, {len(data.classes):,} classes, {size},"


def write_summary(
    session: Session,
    built: Built,
    position: Run,
    best: Epoch | None,
    target: dict[str, float],
    data: Data,
    *,
    finished: bool,
) -> dict[str, Any]:
    """Write and return summary.json: once after training, and as `finished` after the report.

    `best` is the epoch in best.pt and `target` what target_summary returned.
    """
    ledger = session.ledger
    with ledger.part("analysis"):
        summary = summarise(
            [monitors.line(row) for row in position.history],
            built.step.model,
            gemm_rates=ledger.rates[built.step.amp or torch.float32],
            best_epoch=best and best.epoch,
            held_out=data.chooses,
            side=data.side,
        )
    parts = ledger.parts
    parts["eval"] = position.eval_seconds
    parts["data_wait"] = summary["data_wait_seconds"]
    parts["train"] = summary["train_seconds"] - parts["data_wait"]
    summary |= target | data_summary(data, session.recipe.monitor)
    summary |= class_summary(session.folder.path) if finished else {}
    for name in ("compile", "lr_finder", "eval", "checkpoint", "analysis"):
        summary[f"{name}_seconds"] = parts[name]
    summary["mfu"] /= session.group.world  # of one device, as images/s are of all
    summary["ledger"] = ledger.split()
    summary["total_seconds"], summary["finished"] = ledger.total, finished
    session.folder.write_json("summary.json", summary)
    return summary


def headline(summary: dict[str, Any], path: Path) -> str:
    """The last line of a run: how good, how long, where."""
    held_out = summary.get("chosen_by", "test")
    best, once = f"best_{held_out}_accuracy", ""
    by = summary.get("monitor", "accuracy").replace("_", " ")
    kind, chosen = ("best ", "") if by == "accuracy" else ("", f", the best by its {by}")
    if "test_accuracy" in summary:
        once = f"test accuracy {summary['test_accuracy']:.2%}, once, by that epoch, "
    if "seconds_to_target" in summary:
        seconds = summary["seconds_to_target"]
        without = summary["seconds_to_target_without_compile"]
        compiling = f" ({without:.1f} s without compiling)" if without < seconds else ""
        return (
            f"{summary[best]:.2%} of the {held_out} images after {seconds:.1f} s"
            f"{compiling} with the data in memory: {path}"
        )
    return (
        f"{kind}{held_out} accuracy {summary[best]:.2%} in epoch {summary['best_epoch']}{chosen}, "
        f"{once}"
        f"{duration(summary['total_seconds'])} in all: {path}"
    )
