"""What several processes that train together agree on, for a process that is alone.

A group of one whose verbs cost nothing: nothing in the house asks how many processes there are.
`distributed.Joined` is a group of several.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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
        """The highest of all processes' numbers: how they agree on a flag that any may raise."""
        return number

    def signal(self, number: int) -> int:
        """The signal that any process got, 0 for none: all stop for it together."""
        return number

    def broadcast(self, value: Any) -> Any:
        """Rank 0's `value`, of plain values and tensors, in every process."""
        return value

    def gather(self, tensor: Tensor) -> Tensor:
        """(world, *shape): each process's `tensor`, in every process; alone, `tensor` itself."""
        return tensor

    def own_row(self, rows: Tensor) -> Tensor:
        """What `rows` gave of this process; of another world's, rank 0 takes the sum."""
        rows = torch.atleast_2d(rows)
        if len(rows) == self.world:
            return rows[self.rank]
        return rows.sum(dim=0) if self.first else torch.zeros_like(rows[0])

    def sync_buffers(self, model: nn.Module) -> None:
        """Make the model's buffers, BatchNorm's statistics, those of rank 0."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module whose backward leaves each process the mean of all gradients."""
        return model

    def device(self, chosen: torch.device) -> torch.device:
        """This process's own device of the chosen kind."""
        return chosen

    @contextmanager
    def first_on_node(self) -> Iterator[None]:
        """The first process of each machine runs the block, then its others."""
        yield

    def dissolve(self) -> None:
        """From here on each process goes its own way."""
