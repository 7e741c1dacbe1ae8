"""A thread that hangs is seen, and one that computes, moves or may wait is not taken for it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fasttrain.parallel import stillness
from fasttrain.parallel.stillness import MAY_WAIT, MAY_WAIT_ITSELF, Stillness

LOOKS = 3


@contextmanager
def beside(work: Callable[[], object]):
    """The Stillness of a thread that does `work`."""
    made: list[Stillness] = []

    def run() -> None:
        made.append(Stillness())
        work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while not made:
        time.sleep(0.001)
    yield made[0]


def looked(found: Stillness) -> int:
    """How many looks in a row have found it still, after the one that only remembers."""
    for _ in range(LOOKS + 1):
        time.sleep(0.03)
        number = found.look()
    return number


@pytest.fixture
def lock():
    """One that is taken, and given back at the end."""
    found = threading.Lock()
    found.acquire()
    yield found
    found.release()


def code(file: str, line: str, **names: object) -> Callable[[], object]:
    """A function of `line` that stands in `file`."""
    exec(compile(f"def work():\n    {line}\n", file, "exec"), names)
    return names["work"]


def test_a_thread_that_stands_still_is_seen_and_its_place_told(lock):
    with beside(
        code("/somewhere/hung.py", "lock.acquire()\n    lock.release()", lock=lock)
    ) as found:
        assert looked(found) == LOOKS
        assert found.place.startswith("hung.py:2 (work)")


def test_one_that_moves_between_two_looks_is_not(lock):
    first = threading.Event()
    with beside(lambda: (first.wait(), lock.acquire(), lock.release())) as found:
        assert looked(found) == LOOKS
        first.set()
        time.sleep(0.05)
        assert found.look() == 0
        assert looked(found) == LOOKS + 1  # the control: it stands again


def test_one_that_waits_for_another_thread_which_computes_is_not():
    """At the same place, asleep: only what the whole process uses tells it from a hang."""

    def compute() -> bytes:  # without Python's lock, so that it hinders nobody
        return hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)

    with ThreadPoolExecutor(1) as pool, beside(lambda: pool.submit(compute).result()) as found:
        time.sleep(0.05)
        assert looked(found) == 0


@pytest.mark.parametrize(("state", "looks"), [("S", LOOKS), ("D", 0), ("R", 0), ("T", 0)])
def test_one_that_waits_for_a_disk_or_a_processor_or_is_stopped_is_not(
    lock, tmp_path, state, looks
):
    with beside(lambda: lock.acquire() and lock.release()) as found:
        found._state = tmp_path / "stat"
        found._state.write_text(f"7 (a name) R) {state} 1 7 7 0")
        assert looked(found) == looks


def test_where_the_system_tells_no_state_nothing_is_ever_still(lock, tmp_path):
    with beside(lambda: lock.acquire() and lock.release()) as found:
        found._state = tmp_path / "none"
        assert looked(found) == 0


def test_one_that_waits_where_it_may_is_not_and_the_same_elsewhere_is(lock):
    allowed = [name if name.endswith(".py") else f"{name}x.py" for name in MAY_WAIT]
    for name in (*allowed, *MAY_WAIT_ITSELF):
        with beside(code(f"/a/{name}", "lock.acquire() and lock.release()", lock=lock)) as found:
            assert [looked(found), found.place] == [0, ""], name
    for name in ("fasttrain/engine/loop.py", "torch/optim/sgd.py", "home/rich/x.py"):
        with beside(code(f"/a/{name}", "lock.acquire() and lock.release()", lock=lock)) as found:
            assert looked(found) == LOOKS, name


def test_what_is_called_from_where_only_itself_may_wait_is_seen(lock):
    called = code("/a/model.py", "lock.acquire() and lock.release()", lock=lock)
    for name in MAY_WAIT_ITSELF:
        with beside(code(f"/a/{name}", "called()", called=called)) as found:
            assert looked(found) == LOOKS, name


def test_the_places_that_may_wait_are_still_there():
    for name in (*MAY_WAIT, *MAY_WAIT_ITSELF):
        homes = {"torch": Path(torch.__file__), "fasttrain": Path(stillness.__file__)}
        if home := homes.get(name.split("/")[0]):
            assert (home.parents[1] / name).exists(), name
