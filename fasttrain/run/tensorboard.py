"""Writes the metrics of each epoch as TensorBoard scalars.

They are written at once, in the training loop's thread: SummaryWriter's own thread prints a
traceback when the disk is full, and an epoch has only nine numbers. TensorBoard shows every file in
its folder, so a resumed run keeps only the points of its history.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import time, time_ns

from ..engine import monitors
from ..engine.state import Epoch, Run
from ..storage import atomic


@contextmanager
def scalars(
    folder: Path | None, history: Sequence[Epoch] = (), held_out: str = "test"
) -> Iterator[Callable[[Run], None]]:
    """Yield an `on_epoch` hook that writes the newest row of the history below `folder`.

    For a run resumed after `history`, points of later epochs are removed and points lost in a crash
    are written. Without a folder, in a process that writes nothing, the hook does nothing. This
    function and the hook raise OutputError if writing fails.
    """
    if folder is None:
        yield lambda run: None
        return
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter
    from torch.utils.tensorboard.summary import scalar

    written = 0
    for old in sorted(folder.glob("events.out.tfevents.*")):
        written = max(written, _cut(old, len(history)))
    path = folder / f"events.out.tfevents.{time_ns()}.{socket.gethostname()}.{os.getpid()}.0"
    with atomic.reported(path):
        file = path.open("xb", buffering=0)
    record = RecordWriter(file)

    def add(row: Epoch) -> None:
        values = monitors.line(row, held_out)
        epoch = values.pop("epoch")
        with atomic.reported(path):
            for name, value in values.items():
                if value is not None:
                    event = Event(wall_time=time(), step=epoch, summary=scalar(_tag(name), value))
                    record.write(event.SerializeToString())

    with file:
        with atomic.reported(path):
            record.write(Event(wall_time=time(), file_version="brain.Event:2").SerializeToString())
        for row in history[written:]:
            add(row)
        yield lambda run: add(run.history[-1])


def _tag(name: str) -> str:
    return name.replace("_", "/", 1) if name.startswith(("train", "test", "val")) else name


TAGS = frozenset(
    _tag(name.replace("test_", held)) for name in Epoch._fields for held in ("test_", "val_")
)


def _cut(path: Path, epochs: int) -> int:
    """Remove the points after `epochs` from an event file; return the last epoch left in it.

    A record is its length (8 bytes), a checksum of that (4 bytes), the event, and its checksum.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event

    with atomic.reported(path):
        data = path.read_bytes()
    kept, last, at = [], 0, 0
    while at + 16 <= len(data):
        end = at + 16 + int.from_bytes(data[at : at + 8], "little")
        try:
            event = Event.FromString(data[at + 12 : end - 4])
        except DecodeError:
            break  # cut off by a crash: no reader gets past this point
        ours = any(value.tag in TAGS for value in event.summary.value)
        if end <= len(data) and not (ours and event.step > epochs):
            kept.append(data[at:end])
            last = max(last, event.step if ours else 0)
        at = end
    whole = b"".join(kept)
    if whole != data:
        atomic.write_atomically(path, whole)
    return last
