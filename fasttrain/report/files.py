"""Files of a run: written whole or not at all, and one line for what is damaged or refused.

A person who looks at a run should read what to do, not where Python stood.
"""

from __future__ import annotations

import os
import secrets
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
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    return path


def damaged(path: Path, problem: object) -> CheckpointError:
    """The error to raise when `path` cannot be read for what `problem` says."""
    why = " ".join(str(problem).split())[:120]
    return CheckpointError(
        f"{path.name} ({path}): cannot be read: {why}. Restore it, or remove it to see the rest."
    )
