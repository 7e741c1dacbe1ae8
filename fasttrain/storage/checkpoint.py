"""Checkpoints that survive a crash at any instant and never load damaged.

A file is what torch.save writes, so torch alone can read it, and then one line with its SHA-256:
torch.load checks no checksum, a flipped bit of a weight would load silently.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import stat
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, Diverged
from . import atomic, contents

FORMAT = 1
_MARK = b"\nfasttrain sha256 "
_TRAILER = len(_MARK) + 64 + 1


class Checkpoints:
    """One run's checkpoints in `folder`: last.pt and previous.pt to go on from, and best.pt.

    A save writes the new file, then lets previous.pt be last.pt and renames the new file to
    last.pt, where a complete one is at every instant. Only one process may save; any may read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last, self._previous = folder / "last.pt", folder / "previous.pt"
        self.last_is_sound = False

    def save_last(self, state: dict[str, Any]) -> int:
        """Save where the run stands; return the bytes written.

        A damaged last.pt never pushes out a good previous.pt: it is kept as last.pt.damaged.
        """
        if not self.last_is_sound and os.path.lexists(self._last):
            try:
                load(self._last)
            except CheckpointError:
                atomic.set_aside(self._last, ".damaged")
        size = self._save(self._last, state, keep=self._previous)
        self.last_is_sound = True
        return size

    def save_best(self, state: dict[str, Any]) -> int:
        """Replace best.pt; return the bytes written."""
        return self._save(self.folder / "best.pt", state)

    def latest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest valid state, None if there is no checkpoint, and lines on what was rejected.

        last.pt is the newest, whatever progress it states: a run may have been taken back. Changes
        nothing on the disk. Raises CheckpointError if there are checkpoints and none is valid.
        """
        rejected: list[str] = []
        for path in (self._last, self._previous):
            try:
                state = load(path)
            except CheckpointError as error:
                rejected += [str(error)] if os.path.lexists(path) else []
                continue
            self.last_is_sound = path == self._last
            return state, [f"{why} Taking {path.name}; the bad file is kept." for why in rejected]
        if rejected:
            why = f"no valid checkpoint. {' '.join(rejected)} Nothing was changed"
            raise CheckpointError(f"run ({self.folder}): {why}; --overwrite starts it anew.")
        return None, []

    def _save(self, path: Path, state: dict[str, Any], *, keep: Path | None = None) -> int:
        atomic.make_folder(self.folder)
        atomic.remove_leftovers(self.folder, of=path.name)
        return save(path, state, keep=keep)


def save(path: Path, state: dict[str, Any], *, keep: Path | None = None) -> int:
    """Write `state` to `path` atomically, the file before to `keep`; return the bytes written.

    Tensors, numbers, text, lists and dicts; TypeError for anything else, which could not be loaded
    later. Raises Diverged, before writing, for a tensor that is not finite, and OutputError.
    """
    check(state, path)
    buffer = io.BytesIO()
    torch.save({**state, "format": FORMAT}, buffer)
    buffer.write(_trailer(buffer.getbuffer()))
    atomic.write_atomically(path, buffer.getbuffer(), keep=keep)
    return buffer.tell()


def check(state: dict[str, Any], path: Path) -> None:
    """Raise what `save` would for what `state` holds."""
    flaw = contents.flaw(state)
    if flaw == contents.NOT_FINITE:
        why = f"not written, it would hold {flaw}. Try a lower --lr"
        raise Diverged(f"checkpoint ({path}): {why}; the checkpoint before is kept.")
    if flaw:
        raise TypeError(f"a checkpoint holds tensors and plain values only, not {flaw}")


def load(path: Path) -> dict[str, Any]:
    """The state that `save` wrote, its tensors on the CPU; CheckpointError says what is wrong."""
    state = _unpack(_verified(_read(path), path), path)
    flaw = contents.flaw(state)
    if flaw:
        raise _bad(path, f"refused: it contains {flaw}")
    version = state.get("format") if isinstance(state, dict) else None
    if type(version) is not int or version < 1:
        raise _bad(path, "not a fasttrain checkpoint: it states no format")
    if version > FORMAT:
        why = f"its format {version} is newer than this fasttrain's ({FORMAT})"
        raise _bad(path, why, "Upgrade fasttrain")
    return state


def _trailer(payload: memoryview) -> bytes:
    with payload:  # released, so that the buffer under it can grow again
        return _MARK + hashlib.sha256(payload).hexdigest().encode() + b"\n"


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, for ever
            raise OSError("not a file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _bad(path, f"cannot be read: {why}", "Look at the path") from error


def _verified(data: bytes, path: Path) -> bytes:
    """The payload, if its digest is the one at the end."""
    payload, trailer = data[:-_TRAILER], data[-_TRAILER:]
    if trailer == _trailer(memoryview(payload)):
        return payload
    if trailer.startswith(_MARK):
        raise _bad(path, "damaged: its SHA-256 does not match")
    if not data or data.startswith(b"PK"):  # torch.save's files are zip archives
        raise _bad(path, "no digest at its end: it was cut short, or fasttrain did not write it")
    raise _bad(path, "not a fasttrain checkpoint")


def _unpack(payload: bytes, path: Path) -> Any:
    try:
        with warnings.catch_warnings(), zipfile.ZipFile(io.BytesIO(payload)) as archive:
            warnings.simplefilter("ignore")  # torch has some for pickles that it then refuses
            if sum(entry.file_size for entry in archive.infolist()) > len(payload):
                raise ValueError("it is compressed")  # torch.save compresses nothing
            return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL:? (\S+)", str(error))
        why = "refused: it contains objects other than tensors and numbers"
        why += f" ({found[1]})" if found else ""
        raise _bad(path, why, "None of it was run; use another one") from error
    except Exception as error:  # torch.load of a strange file raises whatever it trips over
        first = (str(error).splitlines() or [""])[0]
        raise _bad(path, f"unreadable: {type(error).__name__}: {first}") from error


def _bad(path: Path, why: str, what: str = "Use another one") -> CheckpointError:
    return CheckpointError(f"checkpoint ({path}): {why}. {what}.")
