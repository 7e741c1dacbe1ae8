"""kill -9 at any instant of a real process, again and again, ends bitwise as if it had not been."""

from __future__ import annotations

import random
import signal
import time

import pytest
from processes import Child, flags
from tiny_runs import end, same

pytestmark = pytest.mark.slow

EPOCHS = 5


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.soak)])
def test_runs_killed_at_random_and_resumed_end_bitwise_as_one_left_alone(
    kills, tmp_path, record_property
):
    changes = {"epochs": EPOCHS, "save_every": 0.001, "ema": 0.9, "mixup": 0.4, "cutmix": 1.0}
    for name in ("warm", "whole"):  # the first waits for the process that is forked from
        began = time.monotonic()
        assert Child(tmp_path / "log", flags(tmp_path / name, **changes)).ended().status == 0
    length, whole = time.monotonic() - began, end(tmp_path / "whole")
    chance, done, runs, places = random.Random(kills), 0, 0, set()
    while done < kills or (len(places) < 2 and done < 20 * kills):
        path, runs = tmp_path / f"run-{runs}", runs + 1
        while (status := _killed(path, changes, chance.uniform(0, length))) != 0:
            assert status == -signal.SIGKILL, "it was alive, and nothing else ended it"
            done += 1
            places |= {(path / "recipe.json").exists(), (path / "checkpoints/last.pt").exists()}
        assert same(end(path), whole), f"run {runs - 1} of the seed {kills}"
    assert places == {True, False}, "killed before there was a checkpoint, and after"
    record_property("kills", done)
    record_property("runs that were killed and ended bitwise equal", runs)


def _killed(path, changes, after: float) -> int:
    """The exit status of a run, or of one that was killed after so many seconds."""
    child = Child(path.with_suffix(".log"), flags(path, **changes))
    child.process.join(after)
    if child.process.is_alive():
        child.process.kill()
    return child.ended().status
