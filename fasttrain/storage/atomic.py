"""Atomic, durable writes: after a crash a file holds either its old or its new content.

A run writes all its files through this module. The system calls have their own names here, so that
a test can make the n-th one fail.
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

# Follow no symbolic link; binary on Windows. Each is 0 where the system has no such flag.
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ANOTHER = "or choose another --out"  # ends each OutputError of this module
LEFTOVER = re.compile(r"\.(?P<name>.+)\.\d+\.[0-9a-f]{8}\.tmp")


def write_atomically(path: Path, data: bytes | memoryview, *, keep: Path | None = None) -> None:
    """Replace the content of `path` by `data`, atomically; move the old file to `keep`, if given.

    Other processes read the old or the new content at any time. Raises OutputError, and then leaves
    no temporary file.
    """
    with reported(path, needed=len(data)), _temporary(path, data) as temporary:
        if keep is not None and not linked(path, keep):
            with suppress(FileNotFoundError):
                _replace(path, keep)  # `path` is missing until it is replaced
        _replace(temporary, path)
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinities become null."""
    write_atomically(path, encode(to_json(value, indent=2) + "\n"))


def append_line(path: Path, text: str) -> None:
    """Append one line in one write; start a new line first if the last write was cut short.

    No fsync: the checkpoint holds what has to survive a power cut. Raises OutputError, and then
    leaves the file as it was.
    """
    if "\n" in text:
        raise ValueError(f"must be one line, not {text!r}")
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
    """Rename a file to its name + `suffix`, with a number if that exists; return the new path."""
    kept, number = path.with_name(path.name + suffix), 1
    while os.path.lexists(kept):
        number += 1
        kept = path.with_name(f"{path.name}{suffix}-{number}")
    with reported(path):
        _replace(path, kept)
        sync_folder(path.parent)
    return kept


def remove_leftovers(folder: Path, *, of: str | None = None) -> None:
    """Remove temporary files that crashes left: all, or only those of the file named `of`."""
    with reported(folder):
        entries = os.listdir(folder)
    for entry in entries:
        found = LEFTOVER.fullmatch(entry)
        if found and of in (None, found["name"]):
            with suppress(OSError):  # a leftover is no reason to fail a save
                _unlink(folder / entry)


def remove(path: Path) -> None:
    """Remove one file. Raises OutputError."""
    with reported(path):
        _unlink(path)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents where they are missing. Raises OutputError."""
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)


def check_writable(folder: Path) -> None:
    """Create, write and remove a file in `folder`: for root, permission bits prove nothing."""
    with reported(folder), _temporary(folder / "probe", b"probe\n") as temporary:
        _unlink(temporary)


@contextmanager
def reported(path: Path, *, needed: int = 0) -> Iterator[None]:
    """Turn an OSError into an OutputError on `path`; `needed` is the bytes to be written."""
    try:
        yield
    except OSError as error:
        why, what = error.strerror or str(error), f"Check the path, {ANOTHER}"
        if error.errno in _NO_ROOM:
            why += (f", {needed:,} bytes needed" if needed else "") + f", {_free(path)} free"
            what = f"Make room (disk, quota or ulimit -f), {ANOTHER}"
        raise OutputError(f"output ({path}): {why}. {what}.") from error


def linked(path: Path, name: Path) -> bool:
    """Make `name` a second name of the file at `path`, atomically.

    Return False, with nothing changed, if there is no such file or the file system has no links.
    """
    second = temporary_path(path)
    try:
        _link(path, second)
    except OSError:
        return False
    try:
        _replace(second, name)
    finally:
        if os.path.lexists(second):  # renaming onto another name of the same file does nothing
            _unlink(second)
    return True


def temporary_path(path: Path) -> Path:
    """Return an unused name in the same folder, which `remove_leftovers` recognises."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


@contextmanager
def _temporary(path: Path, data: bytes | memoryview) -> Iterator[Path]:
    """Write `data` to a temporary file in the folder of `path`; remove it if the block fails."""
    temporary = temporary_path(path)
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


def sync_folder(folder: Path) -> None:
    """fsync a folder, where the system can open one."""
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
