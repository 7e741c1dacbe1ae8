"""Durable writing: after a failure at any point a file holds its old content or its new, whole.

Everything a run keeps goes through here, and the system calls have names of their own, so that a
test can make the n-th of them fail.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import OutputError
from .encode import encode, to_json

_open, _write, _fsync, _truncate = os.open, os.write, os.fsync, os.ftruncate
_replace, _unlink, _link = os.replace, os.unlink, os.link

# Never through a planted link; binary on Windows. Both are 0 where the system has no such flag.
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LEFTOVER = re.compile(r"\.(?P<name>.+)\.\d+\.[0-9a-f]{8}\.tmp")


def write_atomically(path: Path, data: bytes | memoryview, *, keep: Path | None = None) -> None:
    """Make `data` the content of `path`; the file it replaces becomes `keep`, if given.

    Who reads meanwhile finds the old content or the new, never none. Raises OutputError, with
    nothing left behind.
    """
    with reported(path, needed=len(data)), _temporary(path, data) as temporary:
        if keep is not None:
            _keep(path, keep)
        _replace(temporary, path)
        _sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; numbers that are not finite become null."""
    write_atomically(path, encode(to_json(value, indent=2) + "\n"))


def append_line(path: Path, text: str) -> None:
    """Append one line in one write, on a line of its own even if the last write was torn.

    It is handed to the system, not forced to the disk: what has to survive a power cut is in the
    checkpoint. Raises OutputError, with the file as it was.
    """
    if "\n" in text:
        raise ValueError(f"one line was promised, not {text!r}")
    line = encode(text + "\n")
    with reported(path, needed=len(line)):
        handle = _open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _SAFELY, 0o666)
        try:
            size = os.lseek(handle, 0, os.SEEK_END)
            os.lseek(handle, max(size - 1, 0), os.SEEK_SET)
            torn = os.read(handle, 1) not in (b"", b"\n")
            try:
                _write_all(handle, b"\n" * torn + line)
            except BaseException:
                with suppress(OSError):
                    _truncate(handle, size)
                raise
        finally:
            os.close(handle)


def set_aside(path: Path, suffix: str) -> Path:
    """Rename a file to its name + `suffix`, numbered if that is taken; return the new path."""
    kept, number = path.with_name(path.name + suffix), 1
    while os.path.lexists(kept):
        number += 1
        kept = path.with_name(f"{path.name}{suffix}-{number}")
    with reported(path):
        _replace(path, kept)
        _sync_folder(path.parent)
    return kept


def remove_leftovers(folder: Path, *, of: str | None = None) -> None:
    """Remove what crashes left of unfinished writes, or only of those of the file named `of`."""
    with reported(folder):
        entries = os.listdir(folder)
    for entry in entries:
        found = LEFTOVER.fullmatch(entry)
        if found and of in (None, found["name"]):
            with suppress(OSError):  # no reason to fail a save
                _unlink(folder / entry)


def remove(path: Path) -> None:
    """Remove one file; OutputError if that fails."""
    with reported(path):
        _unlink(path)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents unless they are there."""
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)


def check_writable(folder: Path) -> None:
    """Create, write and remove a file in `folder`: permission bits tell root nothing."""
    with reported(folder), _temporary(folder / "probe", b"probe\n") as temporary:
        _unlink(temporary)


@contextmanager
def reported(path: Path, *, needed: int = 0) -> Iterator[None]:
    """Turn an OSError into an OutputError on `path`; `needed` bytes were to be written."""
    try:
        yield
    except OSError as error:
        why, what = error.strerror or str(error), "Look at the path, or choose another --out"
        if error.errno in _NO_ROOM:
            why += (f", {needed:,} bytes needed" if needed else "") + f", {_free(path)} free"
            what = "Make room (disk, quota or ulimit -f), or choose another --out"
        raise OutputError(f"output ({path}): {why}. {what}.") from error


def _keep(path: Path, keep: Path) -> None:
    """Let the file at `path` be the one at `keep` too."""
    second = _beside(path)
    try:
        _link(path, second)
    except OSError:  # there is none yet, or no link: then it is missing until it is replaced
        with suppress(FileNotFoundError):
            _replace(path, keep)
        return
    try:
        _replace(second, keep)
    finally:
        if os.path.lexists(second):  # a rename over a name of the same file does nothing
            _unlink(second)


def _beside(path: Path) -> Path:
    """A name for what is to become `path`, or to be removed as a leftover."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


@contextmanager
def _temporary(path: Path, data: bytes | memoryview) -> Iterator[Path]:
    """A new file with `data`, on the disk, beside `path`; removed if the block fails."""
    temporary = _beside(path)
    handle = _open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY, 0o666)
    try:
        try:
            _write_all(handle, data)
            _fsync(handle)
        finally:
            os.close(handle)
        yield temporary
    except BaseException:
        with suppress(OSError):
            _unlink(temporary)
        raise


def _write_all(handle: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[_write(handle, rest) :]


def _sync_folder(folder: Path) -> None:
    """Force the folder's entries to the disk, where the system can open a folder."""
    if os.name == "nt":
        return
    handle = _open(folder, os.O_RDONLY)
    try:
        _fsync(handle)
    except OSError as error:
        # Some network file systems have no fsync for folders; their renames are durable anyway.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _free(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path.parent).free:,}"
    except OSError:
        return "an unknown number"
