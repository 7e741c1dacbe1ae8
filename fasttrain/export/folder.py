"""The folder of an export: it holds a whole, verified export or what it held before.

Files are written into a folder beside it, which takes its place at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError
from ..storage.atomic import check_writable, make_folder, reported

RECORD = "export.json"
OLD = ".old.tmp"  # the end of the name of an export that is being replaced


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """An empty folder to write into; it becomes `folder` if the block ends without an error.

    Raises OutputError if `folder` cannot be written, or holds what no export wrote.
    """
    folder = Path(os.path.realpath(folder))
    _refuse(folder)
    missing = [path for path in folder.parents if not path.exists()]
    make_folder(folder.parent)
    _clean(folder)
    new = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        make_folder(new)
        check_writable(new)
        yield new
        _refuse(folder)  # an export takes a minute, in which a person may have put something there
        _move(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise


def _refuse(folder: Path) -> None:
    """Raise OutputError unless `folder` is missing, empty or an export that nobody changed."""
    with reported(folder):
        if not folder.exists():
            return
        files = sorted(path.name for path in folder.iterdir() if path.name != RECORD)
        written = _written(folder)
        for name in files:
            if name not in written or written[name] != _digest(folder / name):
                raise OutputError(
                    f"--out ({folder}): {name} in it is not as an export wrote it, and would be "
                    "lost. Move it away, or name another folder."
                )


def _written(folder: Path) -> dict[str, str]:
    """The files that an export wrote, with their digests."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        return {name: facts["sha256"] for name, facts in found.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _digest(file: Path) -> str:
    return "" if file.is_dir() else hashlib.sha256(file.read_bytes()).hexdigest()


def _clean(folder: Path) -> None:
    """Remove what exports that were killed left; put back what one of them had moved away."""
    name = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}(\.old)?\.tmp")
    for leftover in folder.parent.iterdir():
        if not name.fullmatch(leftover.name):
            continue
        if leftover.name.endswith(OLD) and not folder.exists():
            os.rename(leftover, folder)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _move(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; if that fails, `folder` is as it was."""
    old = new.with_suffix(OLD)
    with reported(folder):
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(new, folder)
        except BaseException:
            if old.exists():
                os.rename(old, folder)
            raise
    shutil.rmtree(old, ignore_errors=True)
