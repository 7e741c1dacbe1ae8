"""Several processes as one training: how their group begins, agrees, fails and ends.

On CPUs the group uses gloo. On GPUs tensors go over NCCL, and the host's numbers over gloo.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from time import monotonic, sleep
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import Store  # type: ignore[attr-defined]

from ..errors import DistributedError, FasttrainError, ReportedElsewhere, Stopped
from . import backends, hang, rendezvous
from .failure import Failure
from .group import Group
from .launch import Place, is_reporter
from .launch import place as launched
from .signals import ignored
from .watch import Watch

FETCH = 2400.0  # seconds that other processes wait for the first of a machine to load the data
# Words in the error messages of collectives.
COLLECTIVE = ("gloo", "NCCL", "ProcessGroup", "DDP", "store")


class Joined(Group):
    """A group of several processes; `joined` opens it."""

    def __init__(self, place: Place, store: Store, watch: Watch) -> None:
        super().__init__(place)
        self._store, self._watch = store, watch
        self._agreed = self._left = False
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._holds_the_store = self.first and not agent

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def max(self, number: int) -> int:
        found = torch.tensor(number)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def signal(self, number: int) -> int:
        found = self.max(number)
        self._agreed = self._agreed or bool(found)
        return found

    def broadcast(self, value: Any) -> Any:
        data = BytesIO()
        if self.first:
            torch.save(value, data)
        size = torch.tensor(data.tell())
        dist.broadcast(size, 0)
        sent = torch.frombuffer(data.getbuffer(), dtype=torch.uint8) if self.first else None
        sent = torch.empty(int(size), dtype=torch.uint8) if sent is None else sent
        dist.broadcast(sent, 0)
        if self.first:
            return value
        return torch.load(BytesIO(sent.numpy().tobytes()), weights_only=True)

    def gather(self, tensor: Tensor) -> Tensor:
        rows = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(rows, tensor)
        return torch.stack(rows)

    def sync_buffers(self, model: nn.Module) -> None:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)

    def wrap(self, model: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            # The successor of broadcast_buffers is younger than 2.11, the oldest torch for this.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            # Buffers are not sent at every step: `sync_buffers` does that once an epoch.
            return nn.parallel.DistributedDataParallel(
                model, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def device(self, chosen: torch.device) -> torch.device:
        return torch.device("cuda", self.place.local_rank) if chosen.type == "cuda" else chosen

    @contextmanager
    def first_on_node(self) -> Iterator[None]:
        done, until = f"done/{self.place.node}", monotonic() + FETCH
        while self.place.local_rank and not self._store.check([done]):
            if self._watch.failure() or monotonic() > until:
                raise DistributedError(
                    f"data: rank {self.place.node} has not loaded it. See its log."
                )
            sleep(0.2)
        yield
        self._store.set(done, "")

    def dissolve(self) -> None:
        if not self._left:
            self.max(0)
            with suppress(RuntimeError):
                dist.destroy_process_group()
            self._leave()

    @contextmanager
    def watched(self, seconds: float, where: Callable[[], str]) -> Iterator[hang.Progress]:
        backends.set_time_limit(seconds)
        self._watch.progress = progress = hang.Progress(seconds, where)
        yield progress  # after an error the watch continues until the group has ended
        self._watch.progress = None
        backends.set_time_limit()

    def fail(self, error: BaseException) -> BaseException:
        """Publish an `error` that leaves the block of `joined`; return the exception to raise."""
        if self._left:
            return error
        with ignored():  # torchrun sends signals to all others when one has died
            return self._failed(error)

    def _failed(self, error: BaseException) -> BaseException:
        mine = Failure.of(error, self.rank)
        failure = self._watch.failure() or self._cause(error) or self._watch.publish(mine)
        reports = not failure.own and failure != mine and self._watch.is_reporter(failure)
        backends.abandon()  # collectives that wait for this process now fail
        self._leave()
        if failure == mine:
            return error
        return DistributedError(failure.message) if reports else ReportedElsewhere(failure.code)

    def _cause(self, error: BaseException) -> Failure | None:
        """Return another process's failure that caused this process's error, if there is one."""
        if isinstance(error, Stopped):
            # If the group agreed to stop, the signal was meant for all. If not, torchrun may have
            # sent it because another process died.
            return None if self._agreed else self._watch.wait_for_failure()
        first = (str(error).splitlines() or [""])[0]
        collective = isinstance(error, RuntimeError) and any(word in first for word in COLLECTIVE)
        return self._watch.find_cause(first.rpartition("] ")[2]) if collective else None

    def _leave(self) -> None:
        """Stop the watch; the process that holds the store stays until all others have left it."""
        self._left = True
        self._watch.leave(holds_the_store=self._holds_the_store)


@contextmanager
def joined(place: Place | None = None, *, device: str = "auto") -> Iterator[Group]:
    """Yield the group that torchrun's environment describes; without torchrun a group of one.

    An error in one process ends all of them within seconds, with its exit code; one process reports
    it. Raises DistributedError if the others cannot be reached or one died; ReportedElsewhere if
    another process reports; EnvironmentProblem for more processes than GPUs.
    """
    place = launched() if place is None else place
    if place.world == 1:
        yield Group()
        return
    try:
        backend = rendezvous.backend(place, device)
    except FasttrainError as error:
        raise error if is_reporter() else ReportedElsewhere(error.code) from None
    group = Joined(place, *rendezvous.join(place, backend))
    try:
        yield group
        group.dissolve()
    except BaseException as error:
        raised = group.fail(error)
        if raised is error:
            raise
        raise raised from None
