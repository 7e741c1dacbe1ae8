"""Locks a run directory, so that one process at a time writes to it.

The lock is the operating system's: it ends with the process, however the process ends.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

from ..errors import OutputError, shown
from ..storage import atomic
from .folders import LOCK

FAILED = "failed "  # how the text of a lock file begins if an error ended the run


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


def release(lock: IO[bytes], error: Exception | None = None) -> None:
    """Unlock. The lock file stays, empty or with the `error` that ended the run: removing it would
    race with other processes."""
    code, why = getattr(error, "code", 1), shown(error, 300)
    text = f"{FAILED}({code}): {why}\n" if error else ""
    with suppress(OSError, ValueError):  # ValueError: already closed
        lock.truncate(0)
        lock.seek(0)
        lock.write(text.encode("utf-8", "backslashreplace"))
    lock.close()


def look(folder: Path) -> tuple[bool, str]:
    """Return whether a process holds the lock of `folder`, and what the lock file says.

    That is the process, also of one that was killed, or FAILED and why. Changes nothing.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(folder / LOCK, flags)
    except OSError:
        return False, ""
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return False, ""
    with os.fdopen(handle, "rb", buffering=0) as file:
        try:
            text = shown(file.read(1000).decode(errors="replace").strip(), 300)
        except OSError:  # on Windows no other process can read a locked file
            return sys.platform == "win32", ""
        # An empty file or a failure has no holder. It is not locked even for a moment, since a run
        # that starts in this moment would be refused.
        return text.startswith("pid ") and not _lock(file, shared=True), text


def check_unlocked(folder: Path) -> None:
    """Raise OutputError if a process holds the lock of `folder`; change nothing."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except NotADirectoryError:
        with atomic.reported(folder):
            raise
    except OSError:
        pass  # no process holds it, or acquire will report the error
    else:
        with os.fdopen(handle, "rb", buffering=0) as file:
            if not _lock(file, shared=True):
                raise _in_use(folder, file)


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
