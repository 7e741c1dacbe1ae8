"""Reads without torch whether a folder holds a run or a series of runs, and its progress.

A new run must know at once whether its folder holds results that could be lost, and --resume must
find a run to continue. A run that never trained has nothing to lose, and --resume picks it last.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..storage import atomic

RUNS = Path("runs")
LOCK = ".lock"
SERIES = "series.json"
JSON_FILES = ["misclassified.json", "class_accuracy.json", "lr_finder.json", "summary.json"]
JSON_FILES += ["profile.json", "environment.json", "classes.json", "model.json", "recipe.json"]
FOLDERS = ("figures", "tensorboard", "checkpoints")
EXPORTED = ["model.onnx", "model.pt2", "model.safetensors", "config.json", "classes.json"]
EXPORTED += ["README.md", "export.json"]
ENDS = ("", ".abandoned")
# The files that fasttrain writes. --overwrite removes only these. It removes recipe.json last:
# until then the folder counts as a run, so an interrupted removal can be repeated.
OURS = (
    "figures/*.png",
    "tensorboard/**/events.out.tfevents.*",
    *(f"tensorboard/**/*.pt.trace.json{suffix}" for suffix in ("", ".gz")),
    *(f"checkpoints/{name}" for name in ("last.pt", "previous.pt", "best.pt")),
    *(f"{place}/{name}" for name in EXPORTED for place in ("export", ".export.*.tmp")),
    *(f"checkpoints/last.pt.damaged{number}" for number in ("", "-[0-9]*")),
    *(f"checkpoints/{name}.pt.abandoned" for name in ("last", "previous", "best")),
    *("tracker.json", "tracker.log", "wandb/**/*"),
    *(f"checkpoints/epoch-{'[0-9]' * digits}.pt{end}" for digits in range(1, 7) for end in ENDS),
    *("analysis.npz", "listing.csv", "metrics.jsonl", "profile.txt", "report.html", *JSON_FILES),
)


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the recipe of the run in `path`; empty if there is no run."""
    found = _object(path / "recipe.json")
    return found if {"recipe", "epochs"} <= found.keys() else {}


def read_summary(path: Path) -> dict[str, Any]:
    """Return the summary of the run in `path`; empty if there is none."""
    return _object(path / "summary.json")


def series_of(path: Path) -> dict[str, Any]:
    """Return the series in `path`: `recipe`, `asked` (how many runs) and the `runs` done.

    Empty if there is none. If runs exist without a series.json, `asked` is 0: it is not known.
    """
    found = _object(path / SERIES)
    if isinstance(found.get("recipe"), dict) and isinstance(found.get("runs"), list):
        return {**found, "asked": found.get("asked", found.get("count", len(found["runs"])))}
    first = next(filter(None, map(read_recipe, seeds(path))), None)
    return {"recipe": first, "runs": [], "asked": 0} if first and not read_recipe(path) else {}


def seeds(path: Path) -> list[Path]:
    """Return the run folders of a series, sorted by seed."""
    found = (run for run in path.glob("seed-*") if re.fullmatch(r"seed-\d+", run.name))
    return sorted(found, key=lambda run: int(run.name[5:]))


def seed_folders(path: Path, seed: int, count: int) -> list[Path]:
    """Return the folders of `count` runs from `seed` on; UsageError beyond the last seed."""
    last = 2**32 - 1
    if seed + count - 1 > last:
        raise UsageError(
            f"--runs ({count}): with --seed {seed} the last seed is {seed + count - 1}, above "
            f"{last}. Use a lower --seed."
        )
    return [path / f"seed-{each}" for each in range(seed, seed + count)]


def is_trained(path: Path) -> bool:
    """Return whether the run in `path`, or one run of its series, has results to lose."""
    there = any(next((path / "checkpoints").glob(name), None) for name in ("*.pt", "*.damaged*"))
    there = there or any((path / name).exists() for name in ("summary.json", "report.html"))
    with suppress(OSError):
        there = there or (path / "metrics.jsonl").stat().st_size > 0
    return there or (bool(series_of(path)) and any(map(is_trained, seeds(path))))


def is_complete(path: Path) -> bool:
    """Return whether the run or series in `path` has written everything, including its report."""
    if series := {} if read_recipe(path) else series_of(path):
        return len(series["runs"]) >= series["asked"]
    summary = read_summary(path)
    return bool(summary.get("finished")) and (path / "report.html").exists()


def newest(root: Path, *, runs: bool = True, series: bool = True) -> Path | None:
    """Return the unfinished run or series in `root` that was started or resumed last, if any.

    Runs that have trained come before runs that never did. Starting and resuming both write
    recipe.json, whose time is compared; at equal times the later name wins.
    """
    found = [
        path
        for path in root.glob("*")
        if (read_recipe(path) if runs else {}) or (series_of(path) if series else {})
        if not is_complete(path)
    ]
    return max(found, key=lambda path: (is_trained(path), _started(path), path), default=None)


def read_epochs(path: Path) -> tuple[list[dict[str, Any]], str | None]:
    """Return the rows of metrics.jsonl up to the first damaged line, and a note if there is one.

    `path` is the run directory. A missing file gives no rows. Nothing is changed.
    """
    rows: list[dict[str, Any]] = []
    file = path / "metrics.jsonl"
    with atomic.reported(file):
        lines = file.read_bytes().splitlines() if file.is_file() else []
    for number, line in enumerate(lines, start=1):
        row = _parsed(line)
        if not row:
            return rows, f"{file} is damaged in line {number} of {len(lines)}: read up to there."
        rows.append(row)
    return rows, None


def own_files(path: Path) -> list[Path]:
    """Return the files that fasttrain wrote for the run or series in `path`.

    The file that marks the folder as a run or series comes last. Linked folders are not searched.
    """
    found = []
    if not read_recipe(path) and series_of(path):
        found = [file for run in seeds(path) for file in own_files(run)]
        found += [path / SERIES] if os.path.lexists(path / SERIES) else []
    elif read_recipe(path):
        links = {name for name in (*FOLDERS, "export", "wandb") if (path / name).is_symlink()}
        inside = [pattern for pattern in OURS if pattern.partition("/")[0] not in links]
        found = [file for pattern in inside for file in path.glob(pattern) if not file.is_dir()]
    return found


def foreign_file(path: Path) -> Path | None:
    """Return a file in `path` that does not belong to its run or series, if there is one."""
    own = set(own_files(path))
    for file in path.rglob("*"):
        known = file.is_dir() or file.name == LOCK or atomic.LEFTOVER.fullmatch(file.name)
        if not known and file not in own:
            return file
    return None


def _started(path: Path) -> int:
    """Return when a run or series was last started or resumed, in nanoseconds."""
    places = [path / SERIES, *(run / "recipe.json" for run in (path, *seeds(path)))]
    return max(file.stat().st_mtime_ns for file in places if file.exists())


def _object(file: Path) -> dict[str, Any]:
    try:  # reading a pipe could block for ever
        return _parsed(file.read_bytes()) if file.is_file() else {}
    except (OSError, ValueError):
        return {}


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
