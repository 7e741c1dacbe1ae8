"""The rank, world and address that torchrun gave this process, read without importing torch.

The variables are torchrun's protocol, not fasttrain's configuration. They are read before torch is
imported, so that a wrong start is reported at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import UsageError

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
VARIABLES = (*NUMBERS, "MASTER_ADDR")


class Place(NamedTuple):
    """This process's rank among those that train together; the default is one process alone."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    port: int = 0
    host: str = ""

    @property
    def address(self) -> str:
        """host:port of the store."""
        return f"{self.host}:{self.port}"

    @property
    def node(self) -> int:
        """The rank of the first process on this machine."""
        return self.rank - self.local_rank


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return this process's place; UsageError if some of torchrun's variables are missing."""
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        return Place()
    missing = [name for name in VARIABLES if not environment.get(name)]
    if missing:
        found = "RANK" if "RANK" in environment else "WORLD_SIZE"
        raise UsageError(
            f"{missing[0]} (not set): {found} is, and torchrun sets both. "
            f"Start with torchrun, or unset {found}."
        )
    rank, world, local_rank, local_world, port = (_number(n, environment[n]) for n in NUMBERS)
    here = Place(rank, world, local_rank, local_world, port, environment["MASTER_ADDR"])
    for name, value, limit in (
        ("RANK", rank, world),
        ("LOCAL_RANK", local_rank, local_world),
        ("MASTER_PORT", port, 65536),
    ):
        if value >= limit:
            raise UsageError(f"{name} ({value}): must be below {limit}. Start with torchrun.")
    return here


def is_reporter() -> bool:
    """Whether this process reports errors that all processes of its machine have alike."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def local_batch(batch_size: int, world: int, *, parts: int = 1) -> int:
    """Return the images per step of each process, which are computed in `parts`.

    Raises UsageError, which names the nearest batch sizes that divide evenly, if this one does not,
    or if the parts of a process would not be equal.
    """
    if batch_size % (world * parts) == 0:
        return batch_size // world
    if batch_size % world == 0:
        of = f"in each of {world} processes" if world > 1 else "in a step"
        raise UsageError(
            f"--accumulate ({parts}): does not divide the {batch_size // world} images {of} into "
            "equal parts. Use another number, or another --batch-size."
        )
    below = batch_size // world * world
    near = f"{below} or {below + world}" if below else f"{world}"
    raise UsageError(
        f"--batch-size ({batch_size}): does not divide evenly over {world} processes; it is the "
        f"images per step of all together. Nearest: {near}."
    )


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"{name} ({text}): must be a whole number. Start with torchrun.")
    return int(text)
