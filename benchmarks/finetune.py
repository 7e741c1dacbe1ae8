"""What a start from trained weights is worth: on few images like those before, and unlike them.

python -m benchmarks.finetune FOLDER NAME   trains in FOLDER -> results/finetune-NAME.json
python -m benchmarks.finetune               results/finetune-*.json -> the table in docs/

The first network learns five of CIFAR-10's classes. The next ones have few images: of its other
five, or of digits. Without those weights they train at the better of two rates.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.table import ROOT, machine, put, results, store
from fasttrain.data import Split, cifar10, mnist
from fasttrain.machine import environment

BEGIN, END = "<!-- table: python -m benchmarks.finetune -->", "<!-- end of finetune -->"
BEFORE, AFTER = range(5), range(5, 10)  # classes of CIFAR-10
MANY, FEW, JUDGED = 5_000, 50, 400  # images of a class
RUNS = 3
NET = "--model sprint --widths 32,64,64"
FIRST = "--recipe sprint --widths 32,64,64 --epochs 4 --target-accuracy none --cutout 0"
TUNED = f"--recipe finetune {NET} --init runs/first"
SCRATCH = f"{NET} --epochs 20 --scheduler cosine --label-smoothing 0.1 --cutout 0"
STARTS = {
    "`--recipe finetune --init RUN`, rate 0.01": TUNED,
    "the same with `--lr 0.1`": f"{TUNED} --lr 0.1",
    "without weights, rate 0.05": f"{SCRATCH} --lr 0.05",
    "without weights, rate 0.2": f"{SCRATCH} --lr 0.2",
}


def part(split: Split, classes: range, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images of each class, and their labels from 0."""
    chosen = np.concatenate([np.flatnonzero(split.labels == one)[:count] for one in classes])
    return np.asarray(split.images[chosen]), split.labels[chosen, None] - classes.start


def write(path: Path, halves: tuple[Split, Split], classes: range, *, count: int) -> None:
    """Write the classes of a data set as MedMNIST has it."""
    made = {}
    for name, split, most in zip(("train", "test"), halves, (count, JUDGED), strict=True):
        made[f"{name}_images"], made[f"{name}_labels"] = part(split, classes, most)
    np.savez(path, **made)  # type: ignore[arg-type]


def trained(root: Path, words: str) -> dict[str, Any]:
    """Train, as a person would; the command and what its summary says."""
    places = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["-m", "fasttrain", *words.split(), "--cache-dir", "cache"]
    subprocess.run([sys.executable, *command], cwd=root, env=places, check=True)
    run = root / words.split()[-1]
    name = "series.json" if (run / "series.json").exists() else "summary.json"
    found = json.loads((run / name).read_text())
    return {"command": f"python -m fasttrain {words}", "found": found}


def measured(root: Path) -> dict[str, Any]:
    """Train the first network and, from it and without it, on each of the small sets."""
    root.mkdir(parents=True, exist_ok=True)
    photographs, digits = cifar10.load(log=print), mnist.load(log=print)
    write(root / "first.npz", photographs, BEFORE, count=MANY)
    write(root / "like.npz", photographs, AFTER, count=FEW)
    write(root / "unlike.npz", digits, AFTER, count=FEW)
    first = trained(root, f"--dataset first.npz {FIRST} --out runs/first")
    rows = []
    for data, flip in (("like", ""), ("unlike", "--flip 0 ")):
        for number, (start, words) in enumerate(STARTS.items()):
            few = f"--dataset {data}.npz --side 32 --batch-size 20 {flip}--runs {RUNS}"
            row = trained(root, f"{few} {words} --out runs/{data}-{number}")
            kept = {name: row["found"][f"accuracy_{name}"] for name in ("mean", "deviation")}
            rows.append({"data": data, "start": start, "command": row["command"], **kept})
            print(f"{data}, {start}: {kept['mean']:.2%}", flush=True)
    about = {"environment": environment.describe(), "runs": RUNS, "images": 5 * FEW}
    about |= {"judged": 5 * JUDGED, "first": first["found"]["final_test_accuracy"]}
    about |= {"first_command": first["command"]}
    return {"command": "python -m benchmarks.finetune FOLDER NAME", **about, "rows": rows}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row per start, a column per small set, under its hardware."""
    parts = []
    for result in results:
        lines = [
            f"`{result['command']}`: {machine(result['environment'])}",
            "",
            "| start | five other classes of CIFAR-10 | five digits of MNIST |",
            "| --- | --- | --- |",
        ]
        for start in dict.fromkeys(row["start"] for row in result["rows"]):
            cells = [_cell(row) for row in result["rows"] if row["start"] == start]
            lines.append(f"| {start} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(row: dict[str, Any]) -> str:
    return f"{row['mean']:.1%} ± {row['deviation']:.1%}"


def main(arguments: list[str]) -> None:
    if arguments:
        store(measured(Path(arguments[0]).resolve()), "finetune", arguments[1])
    put(table(results("finetune")), begin=BEGIN, end=END)


if __name__ == "__main__":
    main(sys.argv[1:])
