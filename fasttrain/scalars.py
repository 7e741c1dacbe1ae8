"""The epochs' numbers as TensorBoard scalars.

Written as they come, in the loop's own thread: SummaryWriter's thread answers a full disk with a
traceback, and an epoch has eight numbers.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time, time_ns

from . import files
from .loop import Run


@contextmanager
def scalars(folder: Path) -> Iterator[Callable[[Run], None]]:
    """Yield an `on_epoch` hook that writes the newest row of the history below `folder`.

    The hook raises OutputError if it cannot.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter
    from torch.utils.tensorboard.summary import scalar

    path = folder / f"events.out.tfevents.{time_ns()}.{socket.gethostname()}.{os.getpid()}.0"
    with files.reported(path):
        file = path.open("xb", buffering=0)
    record = RecordWriter(file)

    def write(run: Run) -> None:
        row = run.history[-1]._asdict()
        epoch = row.pop("epoch")
        with files.reported(path):
            for name, value in row.items():
                tag = name.replace("_", "/", 1) if name.startswith(("train", "test")) else name
                event = Event(wall_time=time(), step=epoch, summary=scalar(tag, value))
                record.write(event.SerializeToString())

    with file:
        with files.reported(path):
            record.write(Event(wall_time=time(), file_version="brain.Event:2").SerializeToString())
        yield write
