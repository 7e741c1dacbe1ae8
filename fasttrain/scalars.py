"""The epochs' numbers as TensorBoard scalars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .loop import Run


@contextmanager
def scalars(folder: Path) -> Iterator[Callable[[Run], None]]:
    """Yield an `on_epoch` hook that writes the newest row of the history below `folder`."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:

        def write(run: Run) -> None:
            row = run.history[-1]._asdict()
            epoch = row.pop("epoch")
            for name, value in row.items():
                tag = name.replace("_", "/", 1) if name.startswith(("train", "test")) else name
                writer.add_scalar(tag, value, epoch)
            writer.flush()

        yield write
