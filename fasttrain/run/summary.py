"""Builds summary.json, including the full time a run needed to reach its target accuracy.

Times compare only if they count the same work. The clock runs from the data in memory to the end of
training. It includes whitening, compiling, the range test, evaluations and checkpoints; it excludes
importing and fetching.
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
from ..engine.evaluation import evaluate
from ..engine.state import Epoch, Run
from ..recipe.recipe import Recipe
from ..report.words import metric
from ..storage import checkpoint
from . import ending
from .ledger import Ledger, arithmetic, summarise
from .rundir import RunDir
from .session import Session


def measure_rates(
    recipe: Recipe, built: Built, ledger: Ledger, *, log: Callable[[str], None]
) -> None:
    """Measure the GEMM rates used in the summary; called before and after training.

    Logs a note if the two measurements differ."""
    compared = {torch.float32} if recipe.target_accuracy is not None else set()
    ledger.measure_rates(built.device, {arithmetic(built.step.amp, built.device)} | compared)
    for note in ledger.notes():
        log(note)


def target_summary(
    session: Session, data: Data, built: Built, history: Sequence[Epoch]
) -> dict[str, float]:
    """Return, when training ends, the time to the target for summary.json, if it was reached,
    and the final accuracy with test-time flips, if the recipe asks for it."""
    recipe, ledger, group = session.recipe, session.ledger, session.group
    # The analysis so far only measured the machine, so it does not count as training.
    seconds = ledger.total - sum(ledger.parts[name] for name in ("import", "data", "analysis"))
    found: dict[str, float] = {}
    with ledger.part("analysis"):
        target = recipe.target_accuracy
        if target is not None and max(row.test_accuracy for row in history) >= target:
            # Float32 operations at this machine's own rate make machines comparable.
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
    """Evaluate the best checkpoint once on a test set that was not used to choose it.

    Returns loss and accuracy; empty without such a test set. Leaves those weights in the step."""
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
    """Return the data, and the split and metric that chose the best epoch, for summary.json."""
    found = {"data": about(data), "chosen_by": data.chooses, "monitor": monitor}
    found["images"] = {name: len(split.labels) for name, split in parts(data).items()}
    return found


def class_summary(run: Path) -> dict[str, Any]:
    """Return class-averaged means and each class's recall, read from class_accuracy.json.

    Empty if that file is missing or from an older release."""
    try:
        found = json.loads((run / "class_accuracy.json").read_text(encoding="utf-8"))
        means = {name: found[name] for name in monitors.UNEQUAL}
        means |= {"classes_of": found["split"]} if "split" in found else {}
        return {**means, "recall": {row["name"]: row["accuracy"] for row in found["classes"]}}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def parts(data: Data) -> dict[str, Split]:
    """Return the splits by name."""
    held = {data.chooses: data.held_out}
    return {"train": data.train, **held, **({"test": data.test} if data.val is not None else {})}


def counts(data: Data) -> str:
    """Describe the images of each split, the data set, its classes and the image size."""
    *first, last = (f"{len(split.labels):,} {name}" for name, split in parts(data).items())
    images = f"{', '.join(first)} and {last} images of {data.name}"
    return f"{images}, {len(data.classes):,} classes, {data.side} x {data.side},"


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
    """Write and return summary.json: after training, and as `finished` before the page is drawn.

    `best` is the epoch in best.pt; `target` is the result of target_summary.
    """
    ledger = session.ledger
    with ledger.part("analysis"):
        summary = summarise(
            [monitors.line(row) for row in position.history],
            built.step.model,
            gemm_rates=ledger.rates[arithmetic(built.step.amp, built.device)],
            best_epoch=best and best.epoch,
            held_out=data.chooses,
            side=data.side,
        )
    parts = ledger.parts
    parts["eval"] = position.eval_seconds
    parts["data_wait"] = summary["data_wait_seconds"]
    parts["train"] = summary["train_seconds"] - parts["data_wait"]
    summary |= target | data_summary(data, session.recipe.monitor)
    summary["ended"] = ending.reason(session.recipe, position.history)
    summary |= class_summary(session.folder.path) if finished else {}
    for name in ("compile", "lr_finder", "eval", "checkpoint", "analysis"):
        summary[f"{name}_seconds"] = parts[name]
    summary["mfu"] /= session.group.world  # per device, since images/s counts all devices
    summary["ledger"] = ledger.split()
    summary["total_seconds"], summary["finished"] = ledger.total, finished
    session.folder.write_json("summary.json", summary)
    return summary


def headline(summary: dict[str, Any], path: Path) -> str:
    """Return the last line of a run: accuracy, time and folder."""
    held_out = summary.get("chosen_by", "test")
    best, once = f"best_{held_out}_accuracy", ""
    by = metric(summary.get("monitor"))
    kind, chosen = ("best ", "") if by == "accuracy" else ("", f", the best by its {by}")
    if "test_accuracy" in summary:
        once = f", test accuracy {summary['test_accuracy']:.2%} with that epoch's weights"
    if "seconds_to_target" in summary:
        seconds = summary["seconds_to_target"]
        without = summary["seconds_to_target_without_compile"]
        compiling = f" ({without:.1f} s without compiling)" if without < seconds else ""
        return (
            f"{summary[best]:.2%} of the {held_out} images after {seconds:.1f} s"
            f"{compiling} with the data in memory{once}: {path}"
        )
    return (
        f"{kind}{held_out} accuracy {summary[best]:.2%} in epoch {summary['best_epoch']}{chosen}"
        f"{once}, {duration(summary['total_seconds'])} in all: {path}"
    )
