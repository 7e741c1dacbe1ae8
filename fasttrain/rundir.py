"""The run directory: what lies where, and what --overwrite may remove.

Whoever opens one has it alone; claim.py says who may.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from . import claim, files
from .checkpoint import Checkpoints
from .errors import CheckpointError, OutputError
from .texts import encode, to_json

JSON_FILES = ["misclassified.json", "class_accuracy.json", "lr_finder.json", "summary.json"]
JSON_FILES += ["profile.json", "environment.json", "recipe.json"]
# What is said of a network that a run that goes on may leave behind: of its end, and of its best.
OF_THE_END = ["summary.json", "report.html", "misclassified.json", "class_accuracy.json"]
OF_THE_END += ["analysis.npz", "figures/*.png"]
FOLDERS = ("figures", "tensorboard", "checkpoints")
# What fasttrain writes: --overwrite removes these and no others, recipe.json last, because until
# then the folder is a run that can be overwritten again.
OURS = (
    "figures/*.png",
    "tensorboard/**/events.out.tfevents.*",
    *(f"tensorboard/**/*.pt.trace.json{suffix}" for suffix in ("", ".gz")),
    *(f"checkpoints/{name}" for name in ("last.pt", "previous.pt", "best.pt")),
    *(f"checkpoints/last.pt.damaged{number}" for number in ("", "-[0-9]*")),
    *(f"checkpoints/{name}.pt.abandoned" for name in ("last", "previous", "best")),
    *("analysis.npz", "metrics.jsonl", "profile.txt", "report.html", *JSON_FILES),
)


class RunDir(AbstractContextManager["RunDir"]):
    """An open run directory, this process's alone until closed; recipe.json makes it a run."""

    def __init__(self, path: Path, *, new: bool, overwrite: bool = False) -> None:
        """What `create` and `resume` share: lock, probe, clear, make the folders."""
        self.path = path
        self.figures, self.tensorboard = path / "figures", path / "tensorboard"
        self.checkpoints = Checkpoints(path / "checkpoints")
        self._lock = claim.locked(path)
        try:
            if new:
                claim.refuse(path, overwrite)  # again: a run may have come and gone before the lock
            files.check_writable(path)
            for folder in (path, *(path / name for name in FOLDERS)):
                files.make_folder(folder)
                files.remove_leftovers(folder)
            if overwrite:
                _remove_old(path)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, *, overwrite: bool = False) -> RunDir:
        """Open a folder, made with its parents if missing, for a new run.

        Raises OutputError, with nothing changed, if it is in use, holds files that are no run, or
        holds a run and not `overwrite`, which removes that run's files and no others.
        """
        claim.refuse(path, overwrite)
        files.make_folder(path)
        return cls(path, new=True, overwrite=overwrite)

    @classmethod
    def resume(cls, path: Path) -> RunDir:
        """Open the folder of a run to add to it; CheckpointError if it holds none."""
        if not claim.recipe_of(path):
            raise CheckpointError(f"run ({path}): there is none. Name a run directory.")
        return cls(path, new=False)

    def write_json(self, name: str, value: Any) -> None:
        """Write one of JSON_FILES."""
        if name not in JSON_FILES:
            raise ValueError(f"{name} is none of the run directory's {JSON_FILES}")
        files.write_json(self.path / name, value)

    def append_epoch(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        files.append_line(self.path / "metrics.jsonl", to_json(row))

    def rewrite_epochs(self, rows: Iterable[dict[str, Any]]) -> None:
        """Make metrics.jsonl these rows: a resumed run has what its checkpoint had, and no more."""
        text = "".join(to_json(row) + "\n" for row in rows)
        files.write_atomically(self.path / "metrics.jsonl", encode(text))

    def reopen(self) -> None:
        """Take away what describes the end of a run that goes on."""
        for file in [file for pattern in OF_THE_END for file in self.path.glob(pattern)]:
            files.remove(file)

    def close(self) -> None:
        """Let others in."""
        claim.release(self._lock)

    def __exit__(self, *exc: object) -> None:
        self.close()


def _remove_old(path: Path) -> None:
    for folder in (path / name for name in FOLDERS):
        if folder.is_symlink():
            why = f"is a link, and --overwrite removes nothing outside {path}"
            raise OutputError(f"{folder} {why}. Remove it, or choose another --out.")
    for file in [file for pattern in OURS for file in path.glob(pattern) if not file.is_dir()]:
        files.remove(file)
