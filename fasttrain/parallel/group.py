"""What processes that train together do with each other, for a process that trains alone.

The methods of a group of one cost nothing, so no other code asks how many processes there are.
`distributed.Joined` is a group of several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import hang
from .launch import Place


class Group:
    """A group of one."""

    def __init__(self, place: Place | None = None) -> None:
        self.place = place = place or Place()
        self.rank, self.world = place.rank, place.world
        self.first = place.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes; `tensor` stays as it is."""
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all processes, the same bits on each."""
        return self.sum(tensor) / self.world

    def max(self, number: int) -> int:
        """The highest of all processes' numbers; with 0 and 1, whether any process says yes."""
        return number

    def signal(self, number: int) -> int:
        """The signal that any process got, 0 for none; all processes stop for it."""
        return number

    def broadcast(self, value: Any) -> Any:
        """Rank 0's `value`, of plain values and tensors, in every process."""
        return value

    def gather(self, tensor: Tensor) -> Tensor:
        """(world, *shape): each process's `tensor`, in every process; alone, `tensor` itself."""
        return tensor

    def own_row(self, rows: Tensor) -> Tensor:
        """Return this process's row of a tensor from `gather`.

        If it was gathered by another number of processes, rank 0 gets the sum of the rows.
        """
        rows = torch.atleast_2d(rows)
        if len(rows) == self.world:
            return rows[self.rank]
        return rows.sum(dim=0) if self.first else torch.zeros_like(rows[0])

    def sync_buffers(self, model: nn.Module) -> None:
        """Copy rank 0's buffers, BatchNorm's statistics, into the model of every process."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """A module whose backward gives each process the mean of all processes' gradients."""
        return model

    def device(self, chosen: torch.device) -> torch.device:
        """This process's own device of the chosen kind."""
        return chosen

    @contextmanager
    def first_on_node(self) -> Iterator[None]:
        """The first process of each machine runs the block, then its others."""
        yield

    def dissolve(self) -> None:
        """End the group in good order; afterwards each process works alone."""

    @contextmanager
    def watched(self, seconds: float, where: Callable[[], str]) -> Iterator[hang.Progress]:
        """End all processes if one makes no progress for `seconds` (0: never) inside the block.

        Yields a hook that training calls at every progress. `where()` describes the current
        position of training; another thread calls it.
        """
        with hang.alone(hang.Progress(seconds, where)) as progress:
            yield progress
