"""What each part of `--recipe modern` brings, on short runs of a narrower ResNet18.

python -m benchmarks.modern OUT [PART ...]   trains all variants, or those, into OUT/PART
python -m benchmarks.modern keep OUT NAME    OUT -> results/modern-NAME.json -> docs/recipes.md
python -m benchmarks.modern                  results/modern-*.json -> the table in docs/recipes.md
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks import series
from benchmarks.table import machine
from fasttrain.cli import repeat
from fasttrain.models.resnet import BasicBlock, ResNet
from fasttrain.recipe.fields import Scalar
from fasttrain.recipe.recipe import Recipe, make

BEGIN, END = "<!-- table: python -m benchmarks.modern -->", "<!-- end of modern -->"
RUNS = 3
WIDTH = 16  # of 64 channels
SHORT: dict[str, Scalar] = {"model": "benchmarks.modern:narrow", "epochs": 10}
SHORT |= {"train_limit": 10_000, "amp": "bf16", "loader": "resident", "tune": "off"}
MISSION, WHOLE = "mission", "modern"
PARTS: dict[str, tuple[str, dict[str, Scalar]]] = {
    MISSION: ("the default recipe", {}),
    WHOLE: ("`--recipe modern`", {}),
    "nesterov": ("with `--no-nesterov`", {"nesterov": False}),
    "decay": ("with `--decay-norms`", {"decay_norms": True}),
    "smoothing": ("with `--label-smoothing 0`", {"label_smoothing": 0.0}),
    "border": ("with `--border black`", {"border": "black"}),
    "flips": ("with `--no-alternate`", {"alternate": False}),
    "averaged": ("with `--ema 0.99`", {"ema": 0.99}),
    "rate": ("with `--lr 0.05`", {"lr": 0.05}),
    "schedule": ("with `--lr auto --scheduler plateau`", {"lr": "auto", "scheduler": "plateau"}),
}


def narrow(num_classes: int) -> ResNet:
    """ResNet18 for images of 32x32 with a quarter of its channels, a sixteenth of its work."""
    return ResNet(BasicBlock, (2, 2, 2, 2), classes=num_classes, side=32, width=WIDTH)


def recipe(name: str) -> Recipe:
    """The recipe of a variant: the mission's, or the modern one with one part changed."""
    if name == MISSION:
        return make(SHORT)
    return make({**SHORT, "recipe": "modern", **PARTS[name][1]})


def run(out: Path, names: list[str]) -> None:
    """Train RUNS seeds of each variant into out/NAME, without their reports."""
    for name in names or PARTS:
        with series.without_reports():
            repeat.train_runs(
                recipe(name), RUNS, out=out / name, command="python -m benchmarks.modern OUT"
            )


def gather(out: Path) -> dict[str, Any]:
    """Collect the finished runs of each variant, and their environment."""
    return series.gather(out, PARTS, first=WHOLE, row=_accuracies)


def _accuracies(runs: list[dict[str, Any]]) -> list[float]:
    return [each["final_test_accuracy"] for each in runs]


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row per variant, as differences from the whole recipe."""
    parts = []
    for result in results:
        rows = result["rows"]
        base = mean(rows[WHOLE])
        lines = [
            f"`{result['command']}`: {machine(result['environment'])}",
            "",
            "| recipe | test accuracy, each | mean | points |",
            "| --- | --- | --- | --- |",
        ]
        for name in sorted(rows, key=lambda name: (name != WHOLE, -mean(rows[name]))):
            each = ", ".join(f"{accuracy:.2%}" for accuracy in rows[name])
            points = f"{100 * (mean(rows[name]) - base):+.2f}" if name != WHOLE else ""
            spread = f"{mean(rows[name]):.2%} ± {stdev(rows[name]):.2%}"
            lines.append(f"| {PARTS[name][0]} | {each} | {spread} | {points} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main(arguments: list[str]) -> None:
    given = {"run": run, "gather": gather, "table": table, "begin": BEGIN, "end": END}
    series.command(arguments, kind="modern", **given)


if __name__ == "__main__":
    main(sys.argv[1:])
