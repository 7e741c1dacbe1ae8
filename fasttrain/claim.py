"""Who may have a run directory: asked at once, before torch is imported, and again under its lock.

One careless start in its folder can cost a run of many hours; so a folder is taken only if it is
empty or named as the run to continue or to replace, and by one process at a time.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import IO, Any

from . import files
from .errors import OutputError, UsageError

RUNS = Path("runs")
LOCK = ".lock"


def run_to_continue(asked: Path | None, out: Path | None) -> Path | None:
    """The run directory or checkpoint that --resume means; None at a first launch."""
    if asked is None:
        return newest(RUNS) if out is None else out if (out / "recipe.json").exists() else None
    folder = folder_of(asked)
    if out is not None and out.resolve() != folder.resolve():
        raise UsageError(f"--out ({out}): --resume goes on in {folder}. Leave one of them out.")
    return asked


def folder_of(asked: Path) -> Path:
    """The run directory of a checkpoint, or the one that was named itself."""
    return asked if asked.is_dir() else asked.parent.parent


def look(path: Path, *, new: bool, overwrite: bool = False) -> None:
    """Raise OutputError if `path` cannot be had now; changes nothing."""
    if new:
        refuse(path, overwrite)
    try:
        handle = os.open(path / LOCK, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except NotADirectoryError:
        with files.reported(path):
            raise
    except OSError:
        return  # nobody has it, or taking it will say why
    with os.fdopen(handle, "rb", buffering=0) as file:
        if not _lock(file, shared=True):
            raise _in_use(path, file)


def refuse(path: Path, overwrite: bool) -> None:
    """Raise OutputError unless a new run may have `path`."""
    recipe = recipe_of(path)
    if recipe and not overwrite:
        rows, _ = read_epochs(path)
        why = f"already holds a run (epoch {len(rows)} of {recipe['epochs']})"
        what = "Use --resume to continue it or --overwrite to replace it"
        raise OutputError(f"{path} {why}. {what}.")
    for file in () if recipe else path.rglob("*"):
        if not (file.is_dir() or file.name == LOCK or files.LEFTOVER.fullmatch(file.name)):
            why = f"holds files but no run of fasttrain ({file.relative_to(path)})"
            raise OutputError(f"{path} {why}. Choose another --out.")


def fresh(runs: Path, recipe_name: str, now: datetime) -> Path:
    """A new folder in `runs` for a run that was given none: resnet18-20261123-210500, or with -2
    and so on where another start took that name in the same second."""
    name = f"{recipe_name}-{now:%Y%m%d-%H%M%S}"
    files.make_folder(runs)
    for number in count(1):
        folder = runs / (name if number == 1 else f"{name}-{number}")
        with files.reported(folder), suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def locked(folder: Path) -> IO[bytes]:
    """The lock file, open; the lock ends when it is closed or the process dies, however it dies."""
    path, flags = folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with files.reported(path):
        file = os.fdopen(os.open(path, flags, 0o666), "rb+", buffering=0)
        if not _lock(file):
            raise _in_use(folder, file)
        file.truncate(0)
        since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        file.write(f"pid {os.getpid()} on {socket.gethostname()} since {since}\n".encode())
    return file


def release(lock: IO[bytes]) -> None:
    """Let others in. The lock file stays, empty: removing it would race with them."""
    with suppress(OSError, ValueError):  # ValueError: closed before
        lock.truncate(0)
    lock.close()


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


def recipe_of(path: Path) -> dict[str, Any]:
    """The recipe of the run in `path`; empty if there is no run."""
    found = _object(path / "recipe.json")
    return found if {"recipe", "epochs"} <= found.keys() else {}


def is_complete(path: Path) -> bool:
    """Whether the run in `path` wrote all that it was to write, its report included."""
    summary = _object(path / "summary.json")
    return bool(summary.get("finished")) and (path / "report.html").exists()


def newest(root: Path) -> Path | None:
    """The unfinished run in `root` whose recipe.json was written last, if any.

    Every start and resumption writes recipe.json; of equal times the later name wins.
    """
    runs = [run for run in root.glob("*") if recipe_of(run) and not is_complete(run)]
    return max(runs, key=lambda run: ((run / "recipe.json").stat().st_mtime_ns, run), default=None)


def _object(file: Path) -> dict[str, Any]:
    try:
        return _parsed(file.read_bytes())
    except (OSError, ValueError):
        return {}


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _lock(file: IO[bytes], *, shared: bool = False) -> bool:
    """Lock a file for as long as it is open; False if another process has it."""
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # some network file systems have no locks
            pass
    return True


def _in_use(folder: Path, lock: IO[bytes]) -> OutputError:
    holder = lock.read(200).decode(errors="replace").strip()
    lock.close()
    who = f" by {holder}" if holder and holder.isprintable() else ""
    return OutputError(f"{folder} is in use{who}. Wait for it to end, or choose another --out.")
