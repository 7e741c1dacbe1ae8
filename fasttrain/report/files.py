"""Files of a run: written whole or not at all, and one line for what is damaged or refused.

A person who looks at a run should read what to do, not where Python stood.
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
    """Turn a refusal of the operating system into an OutputError that names `path`."""
    try:
        yield
    except OSError as problem:
        why = problem.strerror or str(problem)
        raise OutputError(
            f"report ({path}): cannot be written: {why}. Make room or the folder writable."
        ) from None


def write_whole(path: Path, text: str) -> Path:
    """Put `text` in place of `path` in one move, so that nobody reads half a page."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Named so that the next start of the run takes it away, should this one be killed now.
        draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            draft.write_text(text, encoding="utf-8", errors="backslashreplace")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    return path


def check_form(path: Path, mark: re.Pattern[str], *, run: bool = False) -> None:
    """Raise OutputError unless `path` may become a page of ours: new, or one with our `mark`.

    `run`: the page belongs to a run. Any other may stand in a run's folder, beside its files, but
    is none of them.
    """
    why, file = "", os.path.realpath(path)
    if path.is_symlink():
        why = "is a link"
    elif os.path.isdir(file):
        why = "is a folder"
    elif os.path.lexists(file):
        why = "" if _has(path, mark) else "is a file that fasttrain did not draw"
    for folder in [] if run or why else Path(file).parents:
        beside = folder == Path(file).parent and path.suffix == ".html"
        if _holds_a_run(folder) and (not beside or path.name == "report.html"):
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
    """The error to raise when `path` cannot be read for what `problem` says."""
    why = " ".join(str(problem).split())[:120]
    return CheckpointError(
        f"{path.name} ({path}): cannot be read: {why}. Restore it, or remove it to see the rest."
    )
