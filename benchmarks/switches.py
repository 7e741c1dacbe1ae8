"""What each means of the sprint is worth: the 88 % level without it, two seeds each.

python -m benchmarks.switches OUT [SWITCH ...]   trains all of them, or those, into OUT/SWITCH
python -m benchmarks.switches keep OUT NAME      OUT -> results/switches-NAME.json -> README.md
python -m benchmarks.switches                    results/switches-*.json -> the table in README.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.table import RESULTS, machine, put
from fasttrain import series
from fasttrain.fields import Scalar
from fasttrain.models import sprint
from fasttrain.muon import Muon
from fasttrain.named import LEVELS, RECIPES
from fasttrain.recipe import Recipe, make

BEGIN, END = "<!-- table: python -m benchmarks.switches -->", "<!-- end of the switches -->"
RUNS = 2
AS_IT_IS = "as-it-is"
AVERAGE_EVERY, AVERAGE_DECAY = 5, 0.95  # airbench's lookahead


class Switch(NamedTuple):
    """What is changed, in words and in the Recipe's fields, and what is patched meanwhile."""

    what: str
    fields: Mapping[str, Scalar] = MappingProxyType({})
    patch: Callable[[], AbstractContextManager[Any]] = nullcontext


def _late(stage: sprint.Stage, x: Tensor) -> Tensor:
    x = F.max_pool2d(F.gelu(stage.bn1(stage.conv1(x))), 2)
    return F.gelu(stage.bn2(stage.conv2(x)))


def _mean_head(model: sprint.Sprint, x: Tensor) -> Tensor:
    x = model.layer3(model.layer2(model.layer1(F.gelu(model.stem(x)))))
    return model.fc(x.mean(dim=(2, 3)))


def _random_filters(channels_in: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)


def _scaling_batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=sprint.BATCH_NORM_MOMENTUM)


def _averaged() -> AbstractContextManager[Any]:
    """Every fifth step the weights become a slow average of themselves; its decay grows with the
    third power of the part of the run that is done."""
    plain, averages, done = Muon.step, {}, [0]
    total = 100 * int(LEVELS[0][1]["epochs"])

    @torch.no_grad()
    def step(self: Muon, closure: Any = None) -> Any:
        loss = plain(self, closure)
        done[0] += 1
        part = ((done[0] - 1) % total + 1) / total
        decay = AVERAGE_DECAY**AVERAGE_EVERY * part**3
        for group in self.param_groups if done[0] % AVERAGE_EVERY == 0 else ():
            for weights in group["params"]:
                slow = averages.setdefault(weights, weights.clone())
                weights.copy_(slow.lerp_(weights, 1 - decay))
        return loss

    return mock.patch.object(Muon, "step", step)


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
        patch=_patched(sprint, "_identity", _random_filters),
    ),
    "late-pooling": Switch(
        "maps halved after BatchNorm and GELU", patch=_patched(sprint.Stage, "forward", _late)
    ),
    "batchnorm-scale": Switch(
        "BatchNorm's scale is learned", patch=_patched(sprint, "_batch_norm", _scaling_batch_norm)
    ),
    "fast-batchnorm": Switch(
        "BatchNorm's averages take 0.4 of each batch",
        patch=_patched(sprint, "BATCH_NORM_MOMENTUM", 0.4),
    ),
    "relu": Switch("ReLU for GELU", patch=_patched(F, "gelu", F.relu)),
    "silu": Switch("SiLU for GELU", patch=_patched(F, "gelu", F.silu)),
    "mean-head": Switch(
        "the mean of the last map, logits not divided",
        patch=_patched(sprint.Sprint, "forward", _mean_head),
    ),
    "unscaled-head": Switch("logits not divided", patch=_patched(sprint, "HEAD_SCALE", 1.0)),
    "averaged": Switch("weights averaged every 5 steps (lookahead)", patch=_averaged),
    "sgd-0.1": Switch("SGD for all, rate 0.1", {"filters": "sgd", "lr": 0.1}),
    "sgd-0.4": Switch("SGD for all, rate 0.4", {"filters": "sgd", "lr": 0.4}),
    "no-smoothing": Switch("no label smoothing", {"label_smoothing": 0.0}),
    "random-flips": Switch("each image flipped at random", {"alternate": False}),
    "black-border": Switch("black outside the image", {"border": "black"}),
    "no-crop": Switch("no crop", {"crop_padding": 0}),
    "cutout": Switch("a hole of 8x8 pixels", {"cutout": 8}),
}


def recipe(switch: Switch, **also: Scalar) -> Recipe:
    """The 88 % level with the switch thrown, trained to its last epoch."""
    level = {**RECIPES["sprint"], **LEVELS[0][1], "recipe": "sprint", "target_accuracy": 1.0}
    return make({**level, **switch.fields, **also})


def run(out: Path, names: list[str]) -> None:
    """Train RUNS seeds of each switch into out/NAME."""
    for name in names or list(SWITCHES):
        switch = SWITCHES[name]
        with switch.patch():
            series.train_runs(
                recipe(switch), RUNS, out=out / name, command=f"python -m benchmarks.switches {out}"
            )


def gather(out: Path) -> dict[str, Any]:
    """What is there of the switches: each one's runs, and where they ran."""
    there = {name: out / name / "series.json" for name in SWITCHES}
    found = {name: json.loads(path.read_text()) for name, path in there.items() if path.exists()}
    rows = {
        name: {
            "accuracies": [each["final_test_accuracy"] for each in made["runs"]],
            "seconds": [each["train_seconds"] for each in made["runs"]],
        }
        for name, made in found.items()
    }
    first = found[AS_IT_IS]
    return {"command": first["command"], "environment": first["environment"], "rows": rows}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a row a switch, best first, as differences from the sprint as it is."""
    parts = []
    for result in results:
        rows = result["rows"]
        base = rows[AS_IT_IS]
        lines = [
            f"{machine(result['environment'])}:",
            "",
            "| 88 % level, but with | test accuracy, each | mean | points | time |",
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
    time = min(row["seconds"]) / min(base["seconds"])  # a neighbour only ever adds to it
    each = ", ".join(f"{accuracy:.2%}" for accuracy in accuracies)
    return f"| {what} | {each} | {mean(accuracies):.2%} | {points} | {time:.2f} |"


def results() -> list[dict[str, Any]]:
    """Every kept set of switches, by name."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("switches-*.json"))]


def main(arguments: list[str]) -> None:
    if arguments and arguments[0] != "keep":
        run(Path(arguments[0]), arguments[1:])
        return
    if arguments:
        _, out, name = arguments
        kept = json.dumps(gather(Path(out)), indent=1)
        (RESULTS / f"switches-{name}.json").write_text(kept + "\n")
    put(table(results()), begin=BEGIN, end=END)


if __name__ == "__main__":
    main(sys.argv[1:])
