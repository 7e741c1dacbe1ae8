"""Finds out which process of a group died, failed or hangs, and makes all the others end.

A failed collective says at best that a connection closed, and on a GPU it says nothing for minutes.
So each process sends heartbeats to the group's store and checks those of the next rank. The first
failure found is published in the store and ends every process.

A missing heartbeat is timed in heartbeats of the process that waits for it. If all processes were
stopped together, or their machine slept, none is taken for dead.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from threading import Event, Thread
from time import monotonic, sleep

from torch.distributed import Store  # type: ignore[attr-defined]

from . import backends, hang
from .failure import Failure

# Seconds without a heartbeat after which a process counts as dead; importing CUDA may hold the
# GIL for 5 s.
LOST = 15.0
HURRIED = 5.0  # the same, after a collective has failed somewhere
GRACE = 8.0  # seconds in which the main thread must end by itself once a failure is known


class Watch:
    """The thread of one process that sends and checks heartbeats; `store` is its own connection."""

    def __init__(self, store: Store, rank: int, world: int) -> None:
        self._store, self._rank, self._world = store, rank, world
        self._over = Event()
        self._neighbour = (0, 0)  # its heartbeats so far; our heartbeats since its last one
        self._known: Failure | None = None
        self._reported = False  # by another process
        self.progress: hang.Progress | None = None  # of training, while it runs
        store.set(f"who/{rank}", f"pid {os.getpid()} on {socket.gethostname()}")
        self._thread = Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def leave(self, *, holds_the_store: bool) -> None:
        """End the thread; the process that holds the store waits until all others have left."""
        self._announce_leaving(wait=holds_the_store)
        self._over.set()
        self._thread.join(timeout=GRACE)

    def failure(self) -> Failure | None:
        """Return why the group ends, if it does."""
        try:
            if self._known is None and self._store.check(["failure"]):
                self._known = Failure.parsed(self._store.get("failure"))
            return self._known
        except RuntimeError as error:  # the process that holds the store is gone
            first = str(error).splitlines()[0]
            what = f"the group's store is gone ({first}): rank 0 or torchrun died"
            return Failure(self._rank, 9, what)

    def publish(self, failure: Failure) -> Failure:
        """Make this the group's failure unless it has one; return the group's failure."""
        try:
            return Failure.parsed(self._store.compare_set("failure", "", json.dumps(failure)))
        except RuntimeError:
            return failure

    def is_reporter(self, failure: Failure) -> bool:
        """Return True in the one process that is to report a failure that no process reports
        itself."""
        try:
            return not self._reported and self._store.add("reports", 1) == 1
        except RuntimeError:  # rank 0 is gone: guess which of the others noticed it
            return self._rank <= 1 and failure.rank in (0, self._rank)

    def wait_for_failure(self) -> Failure | None:
        """Wait until it is certain whether a process has died; return the failure, if any."""
        self._store.set("hurry", "")
        until = monotonic() + HURRIED + 2 * hang.BEAT
        while monotonic() < until:
            if failure := self.failure():
                return failure
            sleep(hang.BEAT / 10)
        return None

    def find_cause(self, error: str) -> Failure:
        """Return the failure behind an `error` of a collective; waits for seconds."""
        if failure := self.failure():
            return failure
        self._store.set(f"raised/{self._rank}", "")
        if failure := self.wait_for_failure():
            return failure
        silent = [r for r in range(self._world) if not self._store.check([f"raised/{r}"])]
        what = f"{self._names(silent)}: does not respond" if silent else "the connection broke"
        return self.publish(Failure(self._rank, 9, f"{what} ({error})"))

    def _run(self) -> None:
        """Check until stopped or until the group has a failure; then end this process."""
        while not self._over.wait(hang.BEAT):
            if failure := self.failure() or self._check_progress() or self._check_neighbour():
                self._end(failure)

    def _end(self, failure: Failure) -> None:
        """End this process, unless its main thread leaves in time and reports by itself."""
        if failure.hang:
            if self.is_reporter(failure):
                hang.report(failure.message)
            hang.dump_stacks(f"rank {self._rank}, at {self._where()}")
        # Neither a thread that hangs nor one that waits for it ends by itself.
        until = monotonic() + (2 * hang.BEAT if failure.hang else GRACE)
        while monotonic() < until:
            if self._over.wait(hang.BEAT / 4):
                return
            self._check_reported()
        own = failure.own and failure.rank == self._rank
        nobodys = not (failure.own or failure.hang)
        if own or (nobodys and self.is_reporter(failure)):
            hang.report(failure.message)
        self._announce_leaving(wait=self._rank == 0)
        os._exit(failure.code)

    def _check_reported(self) -> None:
        with suppress(RuntimeError):  # if rank 0 is gone, the store may be gone too
            self._reported = self._reported or self._store.add("reports", 0) > 0

    def _announce_leaving(self, *, wait: bool) -> None:
        """Tell the process that holds the store that this one leaves; with `wait`, wait for all."""
        with suppress(RuntimeError):
            gone, until = self._store.add("left", 1), monotonic() + GRACE / 2
            while wait and gone < self._world and monotonic() < until:
                sleep(hang.BEAT / 20)
                gone = self._store.add("left", 0)

    def _check_progress(self) -> Failure | None:
        """Publish how far this process is; if its deadline has passed, find who hangs."""
        try:
            here = json.dumps([backends.begun_collectives(), self._where()])
            self._store.set(f"progress/{self._rank}", here)
            progress = self.progress
            if progress is None or not progress.beat():
                return None
            what = progress.describe(self._find_hanging())
            return self.publish(Failure(self._rank, 9, what, hang=True))
        except RuntimeError:
            return self.failure()

    def _find_hanging(self) -> str:
        """Name the ranks that have begun fewer collectives than others, which wait for them."""
        keys = [f"progress/{rank}" for rank in range(self._world)]
        found: list[tuple[int, str]] = [
            json.loads(self._store.get(key)) if self._store.check([key]) else (0, "its start")
            for key in keys
        ]
        counts = [count for count, _ in found]
        if min(counts) == max(counts):
            return f"no process goes on; rank {self._rank} is at {self._where()}"
        behind = [rank for rank, count in enumerate(counts) if count == min(counts)]
        verb, them = ("hangs", "it") if len(behind) == 1 else ("hang", "them")
        place = found[behind[0]][1]
        return f"{self._names(behind)} {verb} at {place}, and the others wait for {them}"

    def _check_neighbour(self) -> Failure | None:
        """Send a heartbeat, and check those of the next rank."""
        try:
            self._store.add(f"beat/{self._rank}", 1)
            next_one = (self._rank + 1) % self._world
            before, beats = self._neighbour
            count = self._store.add(f"beat/{next_one}", 0)
            self._neighbour = (count, beats + 1 if count == before else 0)
            silence = self._neighbour[1] * hang.BEAT
            if silence < (HURRIED if self._store.check(["hurry"]) else LOST):
                return None
            what = f"{self._names([next_one])} died: no heartbeat for {silence:.0f} s"
            return self.publish(Failure(self._rank, 9, what))
        except RuntimeError:
            return self.failure()

    def _where(self) -> str:
        progress = self.progress
        return progress.where() if progress else "a place outside the training"

    def _names(self, ranks: list[int]) -> str:
        keys = {rank: f"who/{rank}" for rank in ranks}
        known = {r: self._store.get(k).decode() for r, k in keys.items() if self._store.check([k])}
        return ", ".join(f"rank {r} ({known[r]})" if r in known else f"rank {r}" for r in ranks)
