"""MNIST as a person's own images, in four layouts: what a short sprint reaches on each.

python -m benchmarks.own_images FOLDER NAME   trains in FOLDER -> results/own-images-NAME.json
python -m benchmarks.own_images               results/own-images-*.json -> the table in docs/

The layouts hold the same digits. A limit is drawn by the digest of a file, so each layout trains on
other 6,000 of them: four rows are four samples.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.table import ROOT, machine, put, results, store
from fasttrain.data import Split, mnist
from fasttrain.machine import environment

BEGIN, END = "<!-- table: python -m benchmarks.own_images -->", "<!-- end of own images -->"
WORDS = "--recipe sprint --flip 0 --epochs 2 --train-limit 6000"
BAR = 0.97  # of the images that no layout trains on
Halves = dict[str, Split]


def split_folders(root: Path, halves: Halves) -> str:
    """train/0..9 and test/0..9 of PNGs, gray as MNIST is."""
    for half, split in halves.items():
        for number, (pixels, label) in enumerate(zip(split.images, split.labels, strict=True)):
            path = root / "folders" / half / str(label) / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[..., 0]).save(path)
    return "folders"


def table_of_files(root: Path, halves: Halves) -> str:
    """A csv of the same files."""
    names = sorted(path.relative_to(root) for path in (root / "folders").rglob("*.png"))
    lines = [f"{name.as_posix()},{name.parts[2]},{name.parts[1]}" for name in names]
    (root / "digits.csv").write_text("\n".join(["file_name,label,split", *lines, ""]))
    return "digits.csv"


def arrays(root: Path, halves: Halves) -> str:
    """As MedMNIST has it: gray (N, 28, 28), labels (N, 1)."""
    made = {f"{half}_images": split.images[..., 0] for half, split in halves.items()}
    made |= {f"{half}_labels": split.labels[:, None] for half, split in halves.items()}
    np.savez_compressed(root / "digits.npz", **made)  # type: ignore[arg-type]
    return "digits.npz"


def class_folders(root: Path, halves: Halves) -> str:
    """All 70,000 in 0..9: a share of them is held out."""
    for path in chain(*(sorted((root / "folders" / half).rglob("*.png")) for half in halves)):
        new = root / "unsplit" / path.parent.name / f"{path.parts[-3]} {path.name}"
        new.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, new)
    return "unsplit"


LAYOUTS: dict[str, Callable[[Path, Halves], str]] = {
    "`train/0..9` and `test/0..9` of PNGs": split_folders,
    "csv: `file_name,label,split`": table_of_files,
    "MedMNIST-style npz": arrays,
    "class folders `0..9` without a split": class_folders,
}


def trained(root: Path, dataset: str) -> dict[str, Any]:
    """Train on one layout, as a person would; what its summary says."""
    words = f"--dataset {dataset} {WORDS} --out runs/{dataset}"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    places = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(root / "cache")}
    subprocess.run(
        [sys.executable, "-m", "fasttrain", *words.split()],
        cwd=root,
        env=os.environ | places,
        check=True,
    )
    found = json.loads((root / "runs" / dataset / "summary.json").read_text())
    by = found["chosen_by"]
    return {
        "command": f"python -m fasttrain {words}",
        "judged_by": by,
        "images": found["images"],
        "side": found["data"]["side"],
        "accuracy": found[f"best_{by}_accuracy"],
        "best_epoch": found["best_epoch"],
        "total_seconds": found["total_seconds"],
        "train_seconds": found["train_seconds"],
        "data_wait_share": found["data_wait_seconds"] / found["train_seconds"],
        "load_before": load,
    }


def measured(root: Path) -> dict[str, Any]:
    """Write every layout into `root` and train on it."""
    root.mkdir(parents=True, exist_ok=True)
    about = {"environment": environment.describe(), "bar": BAR}
    halves = dict(zip(("train", "test"), mnist.load(log=print), strict=True))
    rows = []
    for layout, write in LAYOUTS.items():
        rows.append({"layout": layout, **trained(root, write(root, halves))})
        print(f"{layout}: {rows[-1]['accuracy']:.2%}", flush=True)
    return {"command": "python -m benchmarks.own_images FOLDER NAME", **about, "rows": rows}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row per layout, under its hardware."""
    parts = []
    for result in results:
        lines = [
            f"`{result['command']}`: {machine(result['environment'])}",
            "",
            "| MNIST as | `--dataset` | right | of | seconds in all |",
            "| --- | --- | --- | --- | --- |",
        ]
        parts.append("\n".join([*lines, *map(_line, result["rows"])]))
    return "\n\n".join(parts)


def _line(row: dict[str, Any]) -> str:
    name = row["command"].split()[4]
    count = row["images"][row["judged_by"]]
    judged = f"{count:,} {'test' if row['judged_by'] == 'test' else 'held-out'} images"
    accuracy = f"{row['accuracy']:.2%}"
    return f"| {row['layout']} | `{name}` | {accuracy} | {judged} | {row['total_seconds']:.0f} |"


def main(arguments: list[str]) -> None:
    if arguments:
        store(measured(Path(arguments[0]).resolve()), "own-images", arguments[1])
    put(table(results("own-images")), begin=BEGIN, end=END)


if __name__ == "__main__":
    main(sys.argv[1:])
