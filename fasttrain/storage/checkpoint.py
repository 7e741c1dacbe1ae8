"""Checkpoints that survive a crash at any moment; a damaged one is never loaded.

A file is what torch.save writes, so torch.load can read it, followed by a line with its SHA-256:
torch.load checks no checksum, so a flipped bit in a weight would go unnoticed.
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
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, Diverged
from . import atomic, contents, numbered

FORMAT = 1
_MARK = b"\nfasttrain sha256 "
_TRAILER = len(_MARK) + 64 + 1


class Checkpoints:
    """One run's checkpoints in `folder`: last.pt and previous.pt to resume from, and best.pt.

    A save writes a new file, makes last.pt also previous.pt, and renames the new file to last.pt.
    So last.pt is complete at every moment. Only one process may save; any number may read. The
    checkpoints of some epochs may stay as epoch-N.pt.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last, self._previous = folder / "last.pt", folder / "previous.pt"
        self.last_is_sound = False

    def save_last(self, state: dict[str, Any]) -> int:
        """Save the state of the run to last.pt; return the bytes written.

        A damaged last.pt never replaces a good previous.pt: it is renamed to last.pt.damaged.
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

    def save_numbered(self, epoch: int, state: dict[str, Any], *, keep: int | None = None) -> None:
        """Keep `state`, which last.pt holds if it is sound, as epoch-N.pt too; remove all such
        checkpoints but the newest `keep`, if that is given."""
        last = self._last if self.last_is_sound else None
        save = partial(self._save, state=state)
        numbered.add(last, epoch, save, folder=self.folder, keep=keep)

    def latest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Return the newest valid state, or None without a checkpoint, and messages on bad files.

        last.pt counts as the newest, whatever its epoch: a run may have gone back to an earlier
        one. After previous.pt come the numbered ones, the newest first. Writes nothing. Raises
        CheckpointError if there are checkpoints and none is valid.
        """
        rejected: list[str] = []
        for path in (self._last, self._previous, *numbered.found(self.folder).values()):
            try:
                state = load(path)
            except CheckpointError as error:
                rejected += [str(error)] if os.path.lexists(path) else []
                continue
            self.last_is_sound = path == self._last
            return state, [f"{why} Using {path.name}; the bad file is kept." for why in rejected]
        if rejected:
            why = f"no valid checkpoint. {' '.join(rejected)} Nothing was changed"
            raise CheckpointError(f"run ({self.folder}): {why}; --overwrite starts it again.")
        return None, []

    def _save(self, path: Path, state: dict[str, Any], *, keep: Path | None = None) -> int:
        atomic.make_folder(self.folder)
        atomic.remove_leftovers(self.folder, of=path.name)
        return save(path, state, keep=keep)


def save(path: Path, state: dict[str, Any], *, keep: Path | None = None) -> int:
    """Write `state` to `path` atomically, move the old file to `keep`; return the bytes written.

    A state holds tensors, numbers, text, lists and dicts; anything else could not be loaded and is
    a TypeError. Raises Diverged, before writing, for a tensor that is not finite, and OutputError.
    """
    check(state, path)
    buffer = io.BytesIO()
    torch.save({**state, "format": FORMAT}, buffer)
    buffer.write(_trailer(buffer.getbuffer()))
    atomic.write_atomically(path, buffer.getbuffer(), keep=keep)
    return buffer.tell()


def check(state: dict[str, Any], path: Path) -> None:
    """Raise the error that `save` would raise for the content of `state`."""
    flaw = contents.flaw(state)
    if flaw == contents.NOT_FINITE:
        why = f"not written, because it would hold {flaw}. Try a lower --lr"
        raise Diverged(f"checkpoint ({path}): {why}; the previous checkpoint is kept.")
    if flaw:
        raise TypeError(f"a checkpoint holds tensors and plain values only, not {flaw}")


def load(path: Path) -> dict[str, Any]:
    """Return the state that `save` wrote, with its tensors on the CPU. Raises CheckpointError."""
    state = _unpack(_verified(_read(path), path), path)
    flaw = contents.flaw(state)
    if flaw:
        raise _bad(path, f"refused: it contains {flaw}")
    version = state.get("format") if isinstance(state, dict) else None
    if type(version) is not int or version < 1:
        raise _bad(path, "not a fasttrain checkpoint: it has no format number")
    if version > FORMAT:
        why = f"its format {version} is newer than this fasttrain's ({FORMAT})"
        raise _bad(path, why, "Upgrade fasttrain")
    return state


def _trailer(payload: memoryview) -> bytes:
    with payload:  # release the view, so that its buffer can grow again
        return _MARK + hashlib.sha256(payload).hexdigest().encode() + b"\n"


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe could block for ever
            raise OSError("not a file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _bad(path, f"cannot be read: {why}", "Check the path") from error


def _verified(data: bytes, path: Path) -> bytes:
    """Return the payload if its digest equals the one at the end of the file."""
    payload, trailer = data[:-_TRAILER], data[-_TRAILER:]
    if trailer == _trailer(memoryview(payload)):
        return payload
    if trailer.startswith(_MARK):
        raise _bad(path, "damaged: its SHA-256 does not match")
    if not data or data.startswith(b"PK"):  # torch.save's files are zip archives
        raise _bad(path, "no digest at its end: it was cut short, or is not from fasttrain")
    raise _bad(path, "not a fasttrain checkpoint")


def _unpack(payload: bytes, path: Path) -> Any:
    try:
        with warnings.catch_warnings(), zipfile.ZipFile(io.BytesIO(payload)) as archive:
            warnings.simplefilter("ignore")  # torch warns about pickles that it then refuses
            if sum(entry.file_size for entry in archive.infolist()) > len(payload):
                raise ValueError("it is compressed")  # torch.save does not compress
            return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL:? (\S+)", str(error))
        why = "refused: it contains objects other than tensors and numbers"
        why += f" ({found[1]})" if found else ""
        raise _bad(path, why, "No code in it was run; use another file") from error
    except Exception as error:  # torch.load raises anything for a malformed file
        first = (str(error).splitlines() or [""])[0]
        raise _bad(path, f"unreadable: {type(error).__name__}: {first}") from error


def _bad(path: Path, why: str, what: str = "Use another file") -> CheckpointError:
    return CheckpointError(f"checkpoint ({path}): {why}. {what}.")
