"""Writing of reports, whole or not at all, and the errors for damaged or refused files.

Every problem becomes one line that says what to do, instead of a traceback.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError, OutputError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError about `path`."""
    try:
        yield
    except OSError as problem:
        why = problem.strerror or str(problem)
        raise OutputError(
            f"report ({path}): cannot be written: {why}. Make room or the folder writable."
        ) from None


def write_whole(path: Path, text: str) -> Path:
    """Write `text` to `path` atomically, so that no reader sees half a page."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name that the next start of the run removes if this process is killed now.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def check_form(path: Path, mark: re.Pattern[str], *, run: bool = False) -> None:
    """Raise OutputError unless `path` is new or holds an earlier page, known by its `mark`.

    `run`: the page belongs to a run. Any other page may be put into a run's folder if its name ends
    in .html and is not report.html, but not below that folder.
    """
    why, file = "", os.path.realpath(path)
    if path.is_symlink():
        why = "is a link"
    elif os.path.isdir(file):
        why = "is a folder"
    elif os.path.lexists(file):
        why = "" if _has(path, mark) else "is a file that is not from fasttrain"
    for folder in [] if run or why else Path(file).parents:
        is_extra = folder == Path(file).parent and path.suffix == ".html"
        if _holds_a_run(folder) and (not is_extra or path.name == "report.html"):
            why = f"is for the run in {folder} alone"
    if why:
        what = "Move it away" if run else "Choose another --out"
        raise OutputError(f"page ({path}): {why}. {what}.")


def _has(path: Path, mark: re.Pattern[str]) -> bool:
    with writing(path):
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return bool(mark.search(file.read().decode(errors="replace")))


def _holds_a_run(folder: Path) -> bool:
    try:
        found = json.loads((folder / "recipe.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "epochs" in found


def damaged(path: Path, problem: object) -> CheckpointError:
    """Return the error for a file that cannot be read because of `problem`."""
    why = " ".join(str(problem).split())[:120]
    return CheckpointError(
        f"{path.name} ({path}): cannot be read: {why}. Restore it, or remove it to see the rest."
    )
