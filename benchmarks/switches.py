"""Ablations of the sprint: the 88 % level with one part changed; two seeds, five on a GPU.

python -m benchmarks.switches OUT [SWITCH ...]   trains all of them, or those, into OUT/SWITCH
python -m benchmarks.switches keep OUT NAME      OUT -> results/switches-NAME.json -> docs/
python -m benchmarks.switches                    results/switches-*.json -> the table in docs/
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

from torch.nn import functional as F

from benchmarks import series, variants
from benchmarks.conftest import DEVICE
from benchmarks.table import machine
from fasttrain.cli import repeat
from fasttrain.models import sprint
from fasttrain.optim import sgd
from fasttrain.recipe.fields import Scalar
from fasttrain.recipe.named import LEVELS, RECIPES
from fasttrain.recipe.recipe import Recipe, make

BEGIN, END = "<!-- table: python -m benchmarks.switches -->", "<!-- end of the switches -->"
RUNS = 5 if DEVICE.type == "cuda" else 2
AS_IT_IS = "as-it-is"


class Switch(NamedTuple):
    """A change: its description, the Recipe's fields, and what is patched during training."""

    what: str
    fields: Mapping[str, Scalar] = MappingProxyType({})
    patch: Callable[[], AbstractContextManager[Any]] = nullcontext


def _patched(target: object, name: str, new: object) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: mock.patch.object(target, name, new)


SWITCHES = {
    AS_IT_IS: Switch("as it is"),
    "no-whitening": Switch(
        "a stem of random filters, frozen too",
        patch=_patched(sprint.Sprint, "whiten_", lambda model, images: None),
    ),
    "no-identity": Switch(
        "random filters instead of the identity and random ones",
        patch=_patched(sprint, "_identity", variants.random_filters),
    ),
    "late-pooling": Switch(
        "maps halved after BatchNorm and GELU",
        patch=_patched(sprint.Stage, "forward", variants.late_pooling),
    ),
    "batchnorm-scale": Switch(
        "BatchNorm's scale is learned",
        patch=_patched(sprint, "_batch_norm", variants.scaling_batch_norm),
    ),
    "fast-batchnorm": Switch(
        "BatchNorm's averages take 0.4 of each batch",
        patch=_patched(sprint, "BATCH_NORM_MOMENTUM", 0.4),
    ),
    "relu": Switch("ReLU for GELU", patch=_patched(F, "gelu", F.relu)),
    "silu": Switch("SiLU for GELU", patch=_patched(F, "gelu", F.silu)),
    "mean-head": Switch(
        "the mean of the last map, logits not divided",
        patch=_patched(sprint.Sprint, "forward", variants.mean_head),
    ),
    "unscaled-head": Switch("logits not divided", patch=_patched(sprint, "HEAD_SCALE", 1.0)),
    "averaged": Switch(
        "weights averaged every 5 steps (lookahead)",
        {"graphs": "off"},  # it counts its steps, and the replay of a graph runs no Python
        patch=_patched(sgd, "Muon", variants.Averaged),
    ),
    "sgd-0.1": Switch("SGD for all, rate 0.1", {"filters": "sgd", "lr": 0.1}),
    "sgd-0.4": Switch("SGD for all, rate 0.4", {"filters": "sgd", "lr": 0.4}),
    "no-smoothing": Switch("no label smoothing", {"label_smoothing": 0.0}),
    "random-flips": Switch("each image flipped at random", {"alternate": False}),
    "black-border": Switch("black outside the image", {"border": "black"}),
    "no-crop": Switch("no crop", {"crop_padding": 0}),
    "cutout": Switch("a hole of 8x8 pixels", {"cutout": 8}),
}


def recipe(switch: Switch, **also: Scalar) -> Recipe:
    """The recipe of the 88 % level with the change, trained to its last epoch."""
    level = {**RECIPES["sprint"], **LEVELS[0][1], "recipe": "sprint", "target_accuracy": 1.0}
    return make({**level, **switch.fields, **also})


def run(out: Path, names: list[str]) -> None:
    """Train RUNS seeds of each switch into out/NAME."""
    for name in names or list(SWITCHES):
        switch = SWITCHES[name]
        with switch.patch(), series.without_reports():
            repeat.train_runs(
                recipe(switch), RUNS, out=out / name, command=f"python -m benchmarks.switches {out}"
            )


def gather(out: Path) -> dict[str, Any]:
    """Collect the finished runs of each switch, and their environment."""
    return series.gather(out, SWITCHES, first=AS_IT_IS, row=_row)


def _row(runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    return {
        "accuracies": [each["final_test_accuracy"] for each in runs],
        "seconds": [each["train_seconds"] for each in runs],
    }


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row per switch, best first, as differences from the unchanged sprint."""
    parts = []
    for result in results:
        rows = result["rows"]
        base = rows[AS_IT_IS]
        lines = [
            f"{machine(result['environment'])}:",
            "",
            "| 88 % level, but with | test accuracy, each | mean | points | time of the faster |",
            "| --- | --- | --- | --- | --- |",
        ]
        ordered = sorted(rows, key=lambda name: (name != AS_IT_IS, -mean(rows[name]["accuracies"])))
        lines += [_line(SWITCHES[name].what, rows[name], base) for name in ordered]
        parts.append("\n".join([*lines, "", f"By `{result['command']}`."]))
    return "\n\n".join(parts)


def _line(what: str, row: dict[str, Any], base: dict[str, Any]) -> str:
    accuracies = row["accuracies"]
    points = f"{100 * (mean(accuracies) - mean(base['accuracies'])):+.2f}"
    if row is base:
        points = f"(deviation {100 * stdev(accuracies):.2f})"
    # Other programs can only make it longer; of a machine that many shared, none was kept.
    time = f"{min(row['seconds']) / min(base['seconds']):.2f}" if "seconds" in row else ""
    each = ", ".join(f"{accuracy:.2%}" for accuracy in accuracies)
    return f"| {what} | {each} | {mean(accuracies):.2%} | {points} | {time} |"


def main(arguments: list[str]) -> None:
    given = {"run": run, "gather": gather, "table": table, "begin": BEGIN, "end": END}
    series.command(arguments, kind="switches", **given)


if __name__ == "__main__":
    main(sys.argv[1:])
