"""`--runs N`: the same recipe with N seeds, and how far they agree.

One run's accuracy is a draw from a distribution; a claim about a recipe needs its mean and spread.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from statistics import mean, stdev
from time import perf_counter
from typing import Any

from . import environment, files, values
from .claim import RUNS, fresh
from .commands import train
from .display import Display
from .recipe import Recipe

KEPT = [
    *("best_test_accuracy", "final_test_accuracy", "final_test_accuracy_with_flips", "epochs"),
    *("train_seconds", "seconds_to_target", "seconds_to_target_without_compile"),
    *("fp32_gemm_rate", "fp32_operations_to_target"),
]


def train_runs(
    recipe: Recipe,
    runs: int,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    go_on: bool = False,
    display: Display | None = None,
    command: str = "fasttrain.train_runs",
) -> dict[str, Any]:
    """Train `runs` runs with the seeds from `recipe.seed` on into `out`/seed-N, one after the
    other; write and return series.json: every run, failed ones too, their mean and spread.

    With `go_on`, runs that are there are continued, and finished ones left alone.
    """
    display = display or Display()
    folder = values.some_path(out) or fresh(RUNS, f"{recipe.recipe}-{runs}-runs", datetime.now())
    rows: list[dict[str, Any]] = []
    for seed in range(recipe.seed, recipe.seed + runs):
        path = folder / f"seed-{seed}"
        there = path if go_on and (path / "recipe.json").exists() else None
        train(
            replace(recipe, seed=seed),
            out=path,
            overwrite=overwrite,
            continued=there,
            display=display,
            command=command,
            began=perf_counter(),
        )
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        rows.append({"seed": seed, **{key: summary[key] for key in KEPT if key in summary}})
    found = {"command": command, **sum_up(rows, target=recipe.target_accuracy), "runs": rows}
    described = {"environment": environment.describe(), "recipe": recipe.as_dict()}
    files.write_json(folder / "series.json", {**found, **described})
    display.say(describe(found))
    return found


def sum_up(rows: Sequence[dict[str, Any]], *, target: float | None) -> dict[str, Any]:
    """Mean and standard deviation of the final accuracy, and of the time of those that reached
    `target`; `reached` counts them."""
    accuracies = [row["final_test_accuracy"] for row in rows]
    found: dict[str, Any] = {
        "count": len(rows),
        "target": target,
        **_spread("accuracy", accuracies),
    }
    if target is not None:
        times = [row["seconds_to_target"] for row in rows if "seconds_to_target" in row]
        found |= {"reached": len(times), **_spread("seconds", times)}
    return found


def describe(found: dict[str, Any]) -> str:
    """A line on a series."""
    line = (
        f"{found['count']} runs: final test accuracy {found['accuracy_mean']:.2%} "
        f"(standard deviation {found['accuracy_deviation']:.2%})"
    )
    if found["target"] is None:
        return line
    line += f"; {found['reached']} of {found['count']} reached {found['target']:.2%}"
    mean_seconds, spread = found["seconds_mean"], found["seconds_deviation"]
    return line + (f", in {mean_seconds:.1f} s ({spread:.1f})" if found["reached"] else "")


def _spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    deviation = stdev(values) if len(values) > 1 else 0.0
    return {
        f"{name}_mean": mean(values) if values else None,
        f"{name}_deviation": deviation if values else None,
    }
