"""Finds out which process of a group is gone or failed, and tells all of them.

A collective says at best that some connection closed, and on a GPU nothing for minutes. So each
process gives signs of life in the group's store and watches the next one's; what is found out
first is the group's fate, and ends every process. It also looks at its own process's training,
which may hang while the signs of life go on.

Silence and stillness are counted in beats of the process that watches: one that was stopped with
all the others, or slept with its machine, takes none of them for dead.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from threading import Event, Thread
from time import monotonic, sleep
from typing import NamedTuple

from torch.distributed import Store  # type: ignore[attr-defined]

from .stillness import Stillness

BEAT = 1.0  # seconds between two signs of life
LOST = 15.0  # a process without one for so long is dead; importing CUDA may hold the GIL for 5
HURRIED = 5.0  # the same, once a collective has failed somewhere
STILL = 15.0  # training that stands still for so long, and waits for nothing known, hangs
GRACE = 8.0  # that the main thread has to leave by itself once the group's fate is known


class Fate(NamedTuple):
    """Why a group ends; `said` if the process that it came from says it itself."""

    rank: int  # of the process that found it out
    code: int
    what: str
    said: bool

    @property
    def advice(self) -> str:
        """The message with what to do."""
        return f"{self.what}. All processes end; go on from the last checkpoint with --resume."


class Watch:
    """One process's thread of signs of life; `store` is its own connection."""

    def __init__(self, store: Store, rank: int, world: int) -> None:
        self._store, self._rank, self._world = store, rank, world
        self._over = Event()
        self._neighbour = (0, 0)  # its signs of life so far, and the beats here since the last one
        self._training, self._hangs = Stillness(), False
        self._known: Fate | None = None
        store.set(f"who/{rank}", f"pid {os.getpid()} on {socket.gethostname()}")
        self._thread = Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def leave(self, *, holds_the_store: bool) -> None:
        """End the thread, all knowing by now; who holds the store lets the others leave first."""
        with suppress(RuntimeError):
            gone, until = self._store.add("left", 1), monotonic() + GRACE / 2
            while holds_the_store and gone < self._world and monotonic() < until:
                sleep(BEAT / 20)
                gone = self._store.add("left", 0)
        self._over.set()
        self._thread.join(timeout=GRACE)

    def fate(self) -> Fate | None:
        """Why the group ends, if it does."""
        try:
            if self._known is None and self._store.check(["fate"]):
                self._known = _parsed(self._store.get("fate"))
            return self._known
        except RuntimeError as error:  # whoever holds the store is gone, and with it all others
            first = str(error).splitlines()[0]
            what = f"the group's store is gone ({first}): rank 0 or torchrun died"
            return Fate(self._rank, 9, what, False)

    def publish(self, fate: Fate) -> Fate:
        """Make this the group's fate, unless it has one; return what it is."""
        try:
            return _parsed(self._store.compare_set("fate", "", json.dumps(fate)))
        except RuntimeError:
            return fate

    def wins_report(self, fate: Fate) -> bool:
        """Whether it is this process that says what nobody has said; true once over all."""
        try:
            return self._store.add("tellers", 1) == 1
        except RuntimeError:  # rank 0 is gone; who of those that found it out can only be guessed
            return self._rank <= 1 and fate.rank in (0, self._rank)

    def silence(self) -> Fate | None:
        """Wait for as long as it takes to see whether some process has died."""
        self._store.set("hurry", "")
        until = monotonic() + HURRIED + 2 * BEAT
        while monotonic() < until:
            if fate := self.fate():
                return fate
            sleep(BEAT / 10)
        return None

    def verdict(self, why: str) -> Fate:
        """Who is to blame for a collective that failed here, saying `why`; waits for seconds."""
        if fate := self.fate():
            return fate
        self._store.set(f"noticed/{self._rank}", "")
        if fate := self.silence():
            return fate
        silent = [r for r in range(self._world) if not self._store.check([f"noticed/{r}"])]
        who = ", ".join(map(self._name, silent))
        what = f"{who}: does not answer" if silent else "the connection broke"
        return self.publish(Fate(self._rank, 9, f"{what} ({why})", False))

    def _run(self) -> None:
        """Until stopped or the group has a fate; then see to it that this process ends."""
        while not self._over.wait(BEAT):
            fate = self.fate() or self._look() or self._beat()
            # What hangs does not leave by itself: it only lets the others hear why first.
            if fate and not self._over.wait(2 * BEAT if self._hangs else GRACE):
                mine = self._hangs and fate.rank == self._rank
                if mine or (not fate.said and self.wins_report(fate)):
                    print(f"fasttrain: error: {fate.advice}", file=sys.stderr, flush=True)
                with suppress(RuntimeError):
                    self._store.add("left", 1)
                os._exit(fate.code)

    def _look(self) -> Fate | None:
        """Look whether this process's own training hangs."""
        looks = self._training.look()
        if looks * BEAT < STILL:
            return None
        self._hangs = True
        try:
            me, seconds = self._name(self._rank), f"{looks * BEAT:.0f} s"
            what = f"{me} hangs: nothing has moved for {seconds} at {self._training.place}"
            return self.publish(Fate(self._rank, 9, what, True))
        except RuntimeError:
            return self.fate()

    def _beat(self) -> Fate | None:
        """Give a sign of life, and look for the next process's."""
        try:
            self._store.add(f"beat/{self._rank}", 1)
            next_one = (self._rank + 1) % self._world
            before, beats = self._neighbour
            signs = self._store.add(f"beat/{next_one}", 0)
            self._neighbour = (signs, beats + 1 if signs == before else 0)
            silence = self._neighbour[1] * BEAT
            if silence < (HURRIED if self._store.check(["hurry"]) else LOST):
                return None
            what = f"{self._name(next_one)} died: no sign of life for {silence:.0f} s"
            return self.publish(Fate(self._rank, 9, what, False))
        except RuntimeError:
            return self.fate()

    def _name(self, rank: int) -> str:
        known = self._store.check([f"who/{rank}"])
        return f"rank {rank}" + (f" ({self._store.get(f'who/{rank}').decode()})" if known else "")


def _parsed(text: bytes) -> Fate:
    return Fate(*json.loads(text))
