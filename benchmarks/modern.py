"""What each part of `--recipe modern` brings, on short runs of a narrower ResNet18.

python -m benchmarks.modern OUT [PART ...]   trains all variants, or those, into OUT/PART
python -m benchmarks.modern keep OUT NAME    OUT -> results/modern-NAME.json -> docs/recipes.md
python -m benchmarks.modern                  results/modern-*.json -> the table in docs/recipes.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from torch import nn

from benchmarks.conftest import without_reports
from benchmarks.table import machine, put, results, store
from fasttrain.cli import repeat
from fasttrain.models.resnet import BasicBlock, ResNet, stem
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


class Narrow(ResNet):
    """ResNet18 for images of 32x32 with a quarter of its channels, a sixteenth of its work."""

    def __init__(self, classes: int) -> None:
        nn.Module.__init__(self)
        self.conv1, self.pooled, _ = stem(WIDTH, 32)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.layer1 = _stage(WIDTH, WIDTH, stride=1)
        self.layer2 = _stage(WIDTH, 2 * WIDTH, stride=2)
        self.layer3 = _stage(2 * WIDTH, 4 * WIDTH, stride=2)
        self.layer4 = _stage(4 * WIDTH, 8 * WIDTH, stride=1)
        self.fc = nn.Linear(8 * WIDTH, classes)


def narrow(num_classes: int) -> nn.Module:
    """The network of SHORT, as --model calls it."""
    return Narrow(num_classes)


def _stage(channels_in: int, channels: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels, stride=stride)
    return nn.Sequential(first, BasicBlock(channels, channels, stride=1))


def recipe(name: str) -> Recipe:
    """The recipe of a variant: the mission's, or the modern one with one part changed."""
    if name == MISSION:
        return make(SHORT)
    return make({**SHORT, "recipe": "modern", **PARTS[name][1]})


def run(out: Path, names: list[str]) -> None:
    """Train RUNS seeds of each variant into out/NAME, without their reports."""
    for name in names or PARTS:
        with without_reports():
            repeat.train_runs(
                recipe(name), RUNS, out=out / name, command="python -m benchmarks.modern OUT"
            )


def gather(out: Path) -> dict[str, Any]:
    """Collect the finished runs of each variant, and their environment."""
    paths = {name: out / name / "series.json" for name in PARTS}
    made = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    found = {name: series for name, series in made.items() if "count" in series}  # all their runs
    rows = {
        name: [each["final_test_accuracy"] for each in series["runs"]]
        for name, series in found.items()
    }
    first = found[WHOLE]
    return {"command": first["command"], "environment": first["environment"], "rows": rows}


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
    if arguments and arguments[0] != "keep":
        run(Path(arguments[0]), arguments[1:])
        return
    if arguments:
        _, out, name = arguments
        store(gather(Path(out)), "modern", name)
    put(table(results("modern")), begin=BEGIN, end=END)


if __name__ == "__main__":
    main(sys.argv[1:])
