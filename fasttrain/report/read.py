"""Reading of a run directory into a Run: any file may be missing, and none is written.

Figures and pages need nothing else, so they can be drawn without a model or a GPU, during training,
and after a crash.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, UsageError
from .arrays import paired, read_arrays
from .files import damaged
from .records import ClassRow, Mistake, Mistakes, Row, Sweep

EMPTY = np.zeros((0, 0), int)


@dataclass(frozen=True)
class Run:
    """The content of a run directory; `notes` lists what is missing or could not be read."""

    path: Path
    recipe: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    sweep: Sweep | None = None
    classes: list[ClassRow] = field(default_factory=list)
    confusion: np.ndarray = field(default_factory=lambda: EMPTY)
    classes_of: str = ""  # the split of `classes`, `confusion` and `mistakes`; "" in older runs
    mistakes: Mistakes | None = None
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    names_val: bool = False  # whether the rows are of val images

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def held_out(self) -> str:
        """The split that chose the best epoch, val or test; `test_` values of rows are of it."""
        return str(self.summary.get("chosen_by") or ("val" if self.names_val else "test"))

    @property
    def analysed(self) -> str:
        """The split that mistakes and classes are of: test, if it was kept for the end."""
        of_end = "test" if "test_accuracy" in self.summary else self.held_out
        return self.classes_of or of_end

    @property
    def best(self) -> Row | None:
        """The best epoch by the summary, or else that of the highest held-out accuracy.

        Its accuracy is that of the averaged weights, if the summary says that best.pt holds them.
        """
        rows = [row for row in self.rows if math.isfinite(row.test_accuracy)]
        named = [row for row in rows if row.epoch == self.summary.get("best_epoch")]
        best = max(named or rows, key=lambda row: row.test_accuracy, default=None)
        if best and self.is_averaged:
            return best._replace(test_accuracy=best.ema_test_accuracy)
        return best

    @property
    def is_averaged(self) -> bool:
        """Whether best.pt holds the averaged weights."""
        return self.summary.get("best_weights") == "averaged"

    @property
    def drops(self) -> list[Row]:
        """The epochs for which the plateau schedule lowered the rate."""
        if self.recipe.get("scheduler", "plateau") != "plateau":
            return []
        return [b for a, b in zip(self.rows, self.rows[1:], strict=False) if b.lr < 0.99 * a.lr]

    def pictures(self, name: str) -> np.ndarray:
        """Return an array of analysis.npz; empty if there is none."""
        return self.arrays.get(name, np.zeros((0, 1, 1, 3), np.uint8))

    @property
    def sample_names(self) -> list[str]:
        """The class names of the samples; empty if they are unknown."""
        labels = self.arrays.get("sample_labels", np.zeros(0, int)).tolist()
        known = all(0 <= label < len(self.classes) for label in labels)
        return [self.classes[label].name for label in labels] if known else []


def read(path: Path) -> Run:
    """Read the run directory `path`.

    Raises UsageError if there is no such folder, CheckpointError if it is not a run or a file is
    damaged. A damaged metrics.jsonl is read up to the damaged line, with a note.
    """
    if not path.is_dir():
        why = "is a file" if path.exists() else "does not exist"
        raise UsageError(f"run ({path}): {why}. Name a run directory, like runs/NAME.")
    recipe, notes = _object(path / "recipe.json"), list[str]()
    rows = _epochs(path / "metrics.jsonl", notes)
    if not rows and "epochs" not in recipe:
        why = "is not a run of fasttrain: it has neither recipe.json nor metrics.jsonl"
        raise CheckpointError(f"run ({path}): {why}. Name a run directory, like runs/NAME.")
    classes, confusion, of = _parsed(path / "class_accuracy.json", _classes) or ([], EMPTY, "")
    mistakes = _parsed(path / "misclassified.json", _mistakes)
    arrays = read_arrays(path / "analysis.npz")
    return Run(
        path=path,
        names_val=_names_val(path / "metrics.jsonl"),
        recipe=recipe,
        environment=_object(path / "environment.json"),
        rows=rows,
        summary=_object(path / "summary.json"),
        sweep=_parsed(path / "lr_finder.json", Sweep.of),
        classes=classes,
        confusion=confusion,
        classes_of=of,
        mistakes=mistakes,
        arrays=paired(arrays, mistakes or Mistakes(), notes),
        notes=notes,
    )


def _object(path: Path) -> dict[str, Any]:
    """Read the JSON object in `path`; an empty one if there is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as problem:
        raise damaged(path, problem) from None
    if not isinstance(found, dict):
        raise damaged(path, "not a JSON object")
    return found


def _parsed(path: Path, parse: Any) -> Any:
    """Read and `parse` the object in `path`; None if there is none."""
    found = _object(path)
    try:
        return parse(found) if found else None
    except KeyError as problem:
        raise damaged(path, f"it has no {problem}") from None
    except (AttributeError, OverflowError, TypeError, ValueError) as problem:
        raise damaged(path, problem) from None


def _epochs(path: Path, notes: list[str]) -> list[Row]:
    rows: list[Row] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return rows
    except OSError as problem:
        raise damaged(path, problem) from None
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                rows.append(Row.of(json.loads(line)))
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ):
            upto = f"up to epoch {rows[-1].epoch}" if rows else "no epoch"
            notes.append(f"metrics.jsonl is damaged in line {number}: {upto} was read.")
            break
    return rows


def _names_val(path: Path) -> bool:
    try:
        return b'"val_accuracy"' in path.read_bytes().partition(b"\n")[0]
    except OSError:
        return False


def _classes(found: dict[str, Any]) -> tuple[list[ClassRow], np.ndarray, str]:
    rows = [ClassRow.of(row) for row in found["classes"]]
    confusion = np.array(found.get("confusion", EMPTY), dtype=int)
    if confusion.size and confusion.shape != (len(rows), len(rows)):
        raise ValueError(f"a confusion matrix of shape {confusion.shape} for {len(rows)} classes")
    return rows, confusion, str(found.get("split", ""))


def _mistakes(found: dict[str, Any]) -> Mistakes:
    shown, suspects = (
        tuple(Mistake.of(image) for image in found.get(key, ()))
        for key in ("images", "label_errors")
    )
    rule, layer = (str(found.get(key, "")) for key in ("rule", "cam_layer"))
    return Mistakes(rule, int(found.get("mistakes", 0)), shown, suspects, layer)
