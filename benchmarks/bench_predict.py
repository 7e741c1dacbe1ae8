"""`fasttrain predict` on small PNGs, beside its two halves alone: decoding, and the network.

python -m benchmarks.bench_predict [--images 10000] [--rounds 5] [--starts 3] [--name box]

The three take turns over the same files, which are in the page cache, in one process; `predict` is
the whole command, from opening the run to the last row in a file. The network is the sprint's,
untrained: weights do not change the speed. The bar is a part of the slower half of the same turn;
halves that share the cores cannot both go at full speed, so the part that a perfect overlap would
reach is shown, too. A start is a process of its own, from its beginning to its first row in a pipe.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

import fasttrain
from benchmarks import table
from benchmarks.conftest import pixels
from fasttrain.cli import main as cli
from fasttrain.data import content, crew
from fasttrain.machine import environment
from fasttrain.models.build import network
from fasttrain.predict.classifier import Classifier
from fasttrain.recipe.recipe import Recipe
from fasttrain.storage import checkpoint

BAR, FIRST_ROW = 0.7, 4.0  # of the slower half; seconds


def run_of(folder: Path) -> Path:
    """A run with the sprint's untrained network as its best."""
    torch.manual_seed(0)
    recipe = Recipe.named("sprint")
    state = {"progress": [1, 0], "model": network(recipe).state_dict(), "test_accuracy": 0.1}
    (folder / "checkpoints").mkdir(parents=True)
    checkpoint.save(folder / "checkpoints" / "best.pt", {**state, "recipe": recipe.as_dict()})
    return folder


def written(folder: Path, count: int) -> Path:
    """`count` PNGs of 32x32 of noise, which is what decodes slowest, in ten folders."""
    for number, image in enumerate(pixels(count).images):
        path = folder / f"folder {number % 10}" / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def decoded(paths: list[str], classifier: Classifier) -> np.ndarray:
    """Decoding alone: every file's prepared pixels, by as many threads as predict has."""
    one = lambda path: content.pixels(content.of_file(path), classifier.preprocessing)  # noqa: E731
    return np.stack(list(crew.streamed(one, paths)))


def seconds_to_first_row(run: Path, images: Path) -> float:
    """From the start of a process to its first row in a pipe; the process is then ended."""
    command = [sys.executable, "-m", "fasttrain", "predict", str(run), str(images)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        heading, row = process.stdout.readline(), process.stdout.readline()
        took = time.perf_counter() - began
        process.kill()
    assert heading.startswith("path,class"), heading
    assert ".png," in row, row
    return took


def measured(count: int, rounds: int, starts: int) -> dict[str, Any]:
    """Rates of the three, predict as a part of the slower half, and the seconds of a start."""
    with tempfile.TemporaryDirectory() as folder:
        run, data = run_of(Path(folder) / "run"), written(Path(folder) / "data", count)
        first = [seconds_to_first_row(run, data) for _ in range(starts)]
        classifier = fasttrain.load(run)
        paths = sorted(map(str, data.rglob("*.png")))
        prepared = decoded(paths, classifier)
        command = ["predict", str(run), str(data), "--out", str(Path(folder) / "rows.csv")]
        providers: dict[str, Callable[[], object]] = {
            "decoding alone": lambda: decoded(paths, classifier),
            "network alone": lambda: classifier.probabilities(prepared),
            "predict": lambda: cli.main(command),
        }
        seconds: dict[str, list[float]] = {name: [] for name in providers}
        for turn in range(rounds + 1):
            for name, task in providers.items():
                began = time.perf_counter()
                task()
                if turn:  # the first one warms up
                    seconds[name].append(time.perf_counter() - began)
    turns = list(zip(*seconds.values(), strict=True))
    rows = [
        {
            "provider": name,
            "n": rounds,
            "median_seconds": median(times),
            "images_per_second": count / median(times),
        }
        for name, times in seconds.items()
    ]
    return {
        "group": f"predict, {count:,} PNGs of 32x32, sprint",
        "cores": crew.cores(),
        "bar": BAR,
        "rows": rows,
        "of_the_slower_half": [max(decode, net) / both for decode, net, both in turns],
        "of_perfect_overlap": [(decode + net) / both for decode, net, both in turns],
        "seconds_to_first_row": first,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--name", help="keep as benchmarks/results/predict-NAME.json")
    asked = parser.parse_args()
    result = measured(asked.images, asked.rounds, asked.starts)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    print(f"{result['group']}, {result['cores']} cores, load {load}")
    for row in result["rows"]:
        print(f"{row['provider']:>16}: {row['images_per_second']:>9,.0f} images/s")
    part, best = (median(result[name]) for name in ("of_the_slower_half", "of_perfect_overlap"))
    print(f"predict reaches {part:.2f} of the slower half alone (the bar is {BAR})")
    print(f"and {best:.2f} of what two halves one after the other would give")
    first = median(result["seconds_to_first_row"])
    print(f"start to first row: {first:.1f} s, n = {asked.starts} (the bar is {FIRST_ROW:g} s)")
    if asked.name:
        command = f"python -m benchmarks.bench_predict --images {asked.images}"
        about = {"command": command, "environment": environment.describe(), "load": load}
        table.store({**about, **result}, "predict", asked.name)


if __name__ == "__main__":
    main()
