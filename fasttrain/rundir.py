"""The run directory: what lies where, who may write it, and what --overwrite may remove.

One careless start in its folder can cost a run of many hours; so a folder is taken only if it is
empty or named as the run to continue or to replace, and by one process at a time.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from . import files
from .checkpoint import Checkpoints
from .errors import CheckpointError, OutputError

JSON_FILES = ["misclassified.json", "class_accuracy.json", "lr_finder.json", "summary.json"]
JSON_FILES += ["profile.json", "environment.json", "recipe.json"]
FOLDERS = ("figures", "tensorboard", "checkpoints")
# What fasttrain writes: --overwrite removes these and no others, recipe.json last, because until
# then the folder is a run that can be overwritten again.
OURS = (
    "figures/*.png",
    "tensorboard/**/events.out.tfevents.*",
    *(f"tensorboard/**/*.pt.trace.json{suffix}" for suffix in ("", ".gz")),
    *(f"checkpoints/{name}" for name in ("last.pt", "previous.pt", "best.pt")),
    *(f"checkpoints/last.pt.damaged{number}" for number in ("", "-[0-9]*")),
    *("analysis.npz", "metrics.jsonl", "profile.txt", "report.html", *JSON_FILES),
)
_LOCK = ".lock"


class RunDir(AbstractContextManager["RunDir"]):
    """An open run directory, this process's alone until closed; recipe.json makes it a run."""

    def __init__(self, path: Path, *, new: bool, overwrite: bool = False) -> None:
        """What `create` and `resume` share: lock, probe, clear, make the folders."""
        self.path = path
        self.figures, self.tensorboard = path / "figures", path / "tensorboard"
        self.checkpoints = Checkpoints(path / "checkpoints")
        self._lock = _locked(path / _LOCK)
        try:
            if new:
                _refuse(path, overwrite)  # again: a run may have come and gone before the lock
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
        _refuse(path, overwrite)
        files.make_folder(path)
        return cls(path, new=True, overwrite=overwrite)

    @classmethod
    def resume(cls, path: Path) -> RunDir:
        """Open the folder of a run to add to it; CheckpointError if it holds none."""
        if not _recipe(path):
            raise CheckpointError(f"run ({path}): there is none. Name a run directory.")
        return cls(path, new=False)

    def write_json(self, name: str, value: Any) -> None:
        """Write one of JSON_FILES."""
        if name not in JSON_FILES:
            raise ValueError(f"{name} is none of the run directory's {JSON_FILES}")
        files.write_json(self.path / name, value)

    def append_epoch(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        files.append_line(self.path / "metrics.jsonl", files.to_json(row))

    def rewrite_epochs(self, rows: Iterable[dict[str, Any]]) -> None:
        """Make metrics.jsonl these rows: a resumed run has what its checkpoint had, and no more."""
        text = "".join(files.to_json(row) + "\n" for row in rows)
        files.write_atomically(self.path / "metrics.jsonl", files.encode(text))

    def close(self) -> None:
        """Let others in. The lock file stays, empty: removing it would race with them."""
        with suppress(OSError, ValueError):  # ValueError: closed before
            self._lock.truncate(0)
        self._lock.close()

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_epochs(path: Path) -> tuple[list[dict[str, Any]], str | None]:
    """The rows of a run's metrics.jsonl up to the first damaged line, and a note if there is one.

    `path` is the run directory; no file is no rows. Changes nothing.
    """
    rows: list[dict[str, Any]] = []
    file = path / "metrics.jsonl"
    with files.reported(file):
        lines = file.read_bytes().splitlines() if file.exists() else []
    for number, line in enumerate(lines, start=1):
        row = _parsed(line)
        if not row:
            return rows, f"{file} is damaged in line {number} of {len(lines)}: read up to there."
        rows.append(row)
    return rows, None


def default_name(recipe_name: str, now: datetime) -> str:
    """The name of a run that was given none: resnet18-20261123-210500."""
    return f"{recipe_name}-{now:%Y%m%d-%H%M%S}"


def newest(root: Path) -> Path | None:
    """The run in `root` without a summary.json whose recipe.json was written last, if any.

    Every start and resumption writes recipe.json; of equal times the later name wins.
    """
    runs = [run for run in root.glob("*") if _recipe(run) and not (run / "summary.json").exists()]
    return max(runs, key=lambda run: ((run / "recipe.json").stat().st_mtime_ns, run), default=None)


def _recipe(path: Path) -> dict[str, Any]:
    """The recipe of the run in `path`; empty if there is no run."""
    try:
        found = _parsed((path / "recipe.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if {"recipe", "epochs"} <= found.keys() else {}


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refuse(path: Path, overwrite: bool) -> None:
    """Raise OutputError unless a new run may have `path`."""
    recipe = _recipe(path)
    if recipe and not overwrite:
        rows, _ = read_epochs(path)
        why = f"already holds a run (epoch {len(rows)} of {recipe['epochs']})"
        what = "Use --resume to continue it or --overwrite to replace it"
        raise OutputError(f"{path} {why}. {what}.")
    for file in () if recipe else path.rglob("*"):
        if not (file.is_dir() or file.name == _LOCK or files.LEFTOVER.fullmatch(file.name)):
            why = f"holds files but no run of fasttrain ({file.relative_to(path)})"
            raise OutputError(f"{path} {why}. Choose another --out.")


def _remove_old(path: Path) -> None:
    for folder in (path / name for name in FOLDERS):
        if folder.is_symlink():
            why = f"is a link, and --overwrite removes nothing outside {path}"
            raise OutputError(f"{folder} {why}. Remove it, or choose another --out.")
    for file in [file for pattern in OURS for file in path.glob(pattern) if not file.is_dir()]:
        files.remove(file)


def _locked(path: Path) -> IO[bytes]:
    """The lock file, open; the lock ends when it is closed or the process dies, however it dies."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with files.reported(path):
        file = os.fdopen(os.open(path, flags, 0o666), "rb+", buffering=0)
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _in_use(path.parent, file) from None
            except OSError:  # some network file systems have no locks
                pass
        file.truncate(0)
        since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        file.write(f"pid {os.getpid()} on {socket.gethostname()} since {since}\n".encode())
    return file


def _in_use(folder: Path, lock: IO[bytes]) -> OutputError:
    holder = lock.read(200).decode(errors="replace").strip()
    lock.close()
    who = f" by {holder}" if holder and holder.isprintable() else ""
    return OutputError(f"{folder} is in use{who}. Wait for it to end, or choose another --out.")
