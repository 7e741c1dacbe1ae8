"""Writes a file piece by piece and puts it in its place only when it is whole.

For what may be larger than memory, and may take hours to make.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError
from . import atomic


@contextmanager
def written(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yield what appends bytes to a file that replaces the one at `path` when the block ends.

    If the block raises, the old file stays, and nothing else. Raises OutputError, at once for a
    path that nothing can be written to, or that is a device or a folder.
    """
    if os.path.lexists(path) and not path.is_file():
        raise OutputError(f"output ({path}): is no plain file. Choose another --out.")
    temporary = atomic.temporary_path(path)
    with atomic.reported(path):
        file = open(temporary, "xb")  # noqa: SIM115

    def append(data: bytes) -> None:
        with atomic.reported(path, needed=len(data)):
            file.write(data)

    try:
        yield append
        with atomic.reported(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(temporary, path)
            atomic.sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            file.close()
        with suppress(OSError):
            os.unlink(temporary)
        raise
