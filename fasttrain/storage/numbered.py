"""The numbered checkpoints of a run, epoch-N.pt: a second name of what last.pt was then.

A link costs neither time nor, until last.pt is replaced, space.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from . import atomic

NAME = re.compile(r"epoch-([1-9]\d{0,5})\.pt")  # as many digits as an epoch can have


def path_of(folder: Path, epoch: int) -> Path:
    """Return the path of the checkpoint of `epoch` among those in `folder`."""
    return folder / f"epoch-{epoch}.pt"


def found(folder: Path) -> dict[int, Path]:
    """Return the numbered checkpoints in `folder` by epoch, the newest first."""
    named = ((NAME.fullmatch(path.name), path) for path in folder.glob("epoch-*.pt"))
    epochs = {int(match[1]): path for match, path in named if match}
    return dict(sorted(epochs.items(), reverse=True))


def add(
    last: Path | None, epoch: int, save: Callable[[Path], object], *, folder: Path, keep: int | None
) -> None:
    """Put the checkpoint of `epoch` into `folder`, then remove all but the newest `keep`.

    It becomes a second name of `last`, if that is given and the file system has links; otherwise
    `save` writes it. None is removed before it is on disk. Raises OutputError.
    """
    path = path_of(folder, epoch)
    with atomic.reported(path):
        if last is None or not atomic.linked(last, path):
            save(path)
        else:
            atomic.sync_folder(folder)
    for old in list(found(folder).values())[keep:] if keep else []:
        atomic.remove(old)
