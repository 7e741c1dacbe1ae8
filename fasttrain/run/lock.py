"""Checks and locks run directories: first before torch is imported, and again under the lock.

A careless start can destroy a run of many hours. So one process at a time uses a folder, and only
if the folder has nothing to lose or the user asks to continue or replace its run.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

from ..errors import OutputError, UsageError
from ..storage import atomic
from .folders import (
    FOLDERS,
    LOCK,
    foreign_file,
    is_trained,
    newest,
    own_files,
    read_epochs,
    read_recipe,
    seed_folders,
    seeds,
    series_of,
)

RUNS = Path("runs")


def run_to_resume(
    asked: Path | None, out: Path | None, *, runs: bool = True, series: bool = True
) -> Path | None:
    """Return the run directory, checkpoint or series for --resume; None at a first launch.

    Without a path it is the newest in RUNS. `runs` and `series` select which kinds count.
    """
    if asked is None:
        if out is None:
            return newest(RUNS, runs=runs, series=series)
        return out if (out / "recipe.json").exists() or series_of(out) else None
    folder = folder_of(asked)
    if out is not None and out.resolve() != folder.resolve():
        raise UsageError(f"--out ({out}): --resume goes on in {folder}. Leave one of them out.")
    return asked


def folder_of(asked: Path) -> Path:
    """Return the run directory of a checkpoint, or `asked` itself if it is a folder."""
    return asked if asked.is_dir() else asked.parent.parent


def check_free(path: Path, *, new: bool, overwrite: bool = False, series: bool = False) -> None:
    """Raise OutputError if `path` cannot be used now; change nothing."""
    try:
        handle = os.open(path / LOCK, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except NotADirectoryError:
        with atomic.reported(path):
            raise
    except OSError:
        pass  # no process holds it, or acquire will report the error
    else:
        with os.fdopen(handle, "rb", buffering=0) as file:
            if not _lock(file, shared=True):
                raise _in_use(path, file)
    if new:
        check_new(path, overwrite, series=series)


def look_series(folder: Path, seed: int, count: int, *, new: bool, overwrite: bool = False) -> None:
    """Raise OutputError if the folder of a series or of one of its runs cannot be used now."""
    paths = seed_folders(folder, seed, count)
    check_free(folder, new=new, overwrite=overwrite, series=True)
    for path in paths:
        check_free(path, new=not new and not read_recipe(path))


def check_new(path: Path, overwrite: bool, *, series: bool = False) -> None:
    """Raise OutputError unless a new run, or a new `series` of runs, may use `path`."""
    for parent in Path(os.path.realpath(path)).parents:
        if read_recipe(parent):
            raise OutputError(f"{path} is inside the run {parent}. Choose another --out.")
    recipe = read_recipe(path)
    others = {} if recipe else series_of(path)
    if (recipe or others) and is_trained(path):
        if overwrite and bool(others) == series:
            return
        rows, _ = read_epochs(path)
        why = f"already holds a run (epoch {len(rows)} of {recipe.get('epochs')})"
        if others:
            why = f"already holds a series ({len(others['runs'])} of {others['asked'] or '?'} runs)"
        what = "Use --resume to continue it or --overwrite to replace it"
        raise OutputError(f"{path} {why}. {'Choose another --out' if overwrite else what}.")
    file = None if recipe and overwrite else foreign_file(path)
    if file:
        why = f"holds files but no run of fasttrain ({file.relative_to(path)})"
        raise OutputError(f"{path} {why}. Choose another --out.")


def new_folder(runs: Path, recipe_name: str, now: datetime) -> Path:
    """Make a new folder in `runs`, such as resnet18-20261123-210500, for a run without --out;
    add -2 and so on if another start took that name in the same second."""
    name = f"{recipe_name}-{now:%Y%m%d-%H%M%S}"
    atomic.make_folder(runs)
    for number in count(1):
        folder = runs / (name if number == 1 else f"{name}-{number}")
        with atomic.reported(folder), suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def missing(path: Path) -> list[Path]:
    """Return `path` and those of its parents that do not exist yet, `path` first."""
    return [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]


def withdraw(path: Path, made: Sequence[Path]) -> None:
    """Remove, as far as possible, the files and folders of a run that never trained.

    `made` are the folders that the run created, inner ones first. The caller must hold the lock.
    """
    inside = [run / name for run in (path, *seeds(path)) for name in FOLDERS]
    with suppress(OutputError):
        for file in own_files(path):
            atomic.remove(file)
    for file in (run / LOCK for run in (*seeds(path), path)):
        with suppress(OSError):
            file.unlink()
    for folder in (*inside, *seeds(path), *made):
        with suppress(OSError):
            folder.rmdir()  # removes only empty folders


def acquire(folder: Path) -> IO[bytes]:
    """Lock `folder` and return the open lock file; closing it or any process exit unlocks."""
    path, flags = folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with atomic.reported(path):
        while True:
            file = os.fdopen(os.open(path, flags, 0o666), "rb+", buffering=0)
            if not _lock(file):
                raise _in_use(folder, file)
            if _is_at(file, path):
                break
            file.close()  # another start failed and removed it meanwhile
        file.truncate(0)
        since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        file.write(f"pid {os.getpid()} on {socket.gethostname()} since {since}\n".encode())
    return file


def release(lock: IO[bytes]) -> None:
    """Unlock. The empty lock file stays: removing it would race with other processes."""
    with suppress(OSError, ValueError):  # ValueError: already closed
        lock.truncate(0)
    lock.close()


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(file: IO[bytes], *, shared: bool = False) -> bool:
    """Lock an open file until it is closed; return False if another process holds the lock.

    A `shared` lock lets several processes check a folder at once. filelock cannot take a shared
    lock on a descriptor, so fcntl does; on Windows the lock is exclusive.
    """
    try:
        if not shared or sys.platform == "win32":
            return lock_descriptor(file.fileno(), blocking=False)
        import fcntl

        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems do not support locks
        pass
    return True


def _in_use(folder: Path, lock: IO[bytes]) -> OutputError:
    holder = ""
    with lock, suppress(OSError):  # on Windows no other process can read a locked file
        holder = lock.read(200).decode(errors="replace").strip()
    who = f" by {holder}" if holder and holder.isprintable() else ""
    return OutputError(f"{folder} is in use{who}. Wait for it to end, or choose another --out.")
