"""A training without progress ends with its stacks when its deadline passes, and only then."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import flags
from ranks import Ranks

from fasttrain.cli import main as cli
from fasttrain.parallel import backends, hang
from fasttrain.parallel.failure import Failure
from fasttrain.parallel.group import Group

THREAD = re.compile(r"^(Current t|T)hread 0x\w+ .*\(most recent call first\):$", re.MULTILINE)


def passes(progress: hang.Progress, *, most: int = 20) -> int:
    """The beat at which the deadline passes, 0 if it does not."""
    return next((beat for beat in range(1, most) if progress.beat()), 0)


@pytest.mark.parametrize(("seconds", "beat"), [(3.0, 3), (2.5, 3), (0.5, 1), (0.0, 0), (1e6, 0)])
def test_the_deadline_passes_after_so_many_beats(monkeypatch, seconds, beat):
    monkeypatch.setattr(hang, "BEAT", 1.0)
    assert passes(hang.Progress(seconds, str)) == beat


def test_any_progress_starts_it_anew_and_time_without_beats_does_not_count():
    progress = hang.Progress(3 * hang.BEAT, str)
    for _ in range(3):
        assert not progress.beat()
        assert not progress.beat()
        progress("whatever a hook is given")
    assert passes(progress) == 4, "the beat that sees the progress, and three"


def test_alone_a_thread_is_there_only_while_it_is_watched_and_has_a_deadline():
    def threads() -> int:
        return sum(each.name == "hang" for each in threading.enumerate())

    for seconds, count in ((60.0, 1), (0.0, 0)):
        with Group().watched(seconds, str) as progressed:
            progressed()
            assert threads() == count
        assert threads() == 0
    with pytest.raises(KeyError), Group().watched(60.0, str):
        raise KeyError
    assert threads() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("hang@step:3", "epoch 1, step 3"),
        ("loop@step:3", "epoch 1, step 3"),
        ("hang@evaluation:2", "epoch 2, evaluation"),
        ("hang@range test", "the range test"),
        ("hang@save:6", "epoch"),  # in the thread that saves, for which training then waits
    ],
)
def test_one_process_that_hangs_ends_with_9_one_line_and_its_stacks(tmp_path, fault, words):
    lr = "auto" if "range" in fault else 0.05
    arguments = flags(tmp_path / "a", hang_timeout=1, lr=lr)
    (ended,) = Ranks(tmp_path / "log", arguments, world=1, faults={0: fault}).ended(within=20)
    assert ended.status == 9
    first, _, stacks = ended.err.partition("\n")
    assert re.fullmatch(
        rf"fasttrain: error: training \(no progress for 1 s\): it hangs at {words}.*\. Go on from "
        r"the last checkpoint with --resume, or use a longer --hang-timeout \(0 is none\)\.",
        first,
    )
    assert len(THREAD.findall(stacks)) >= 2
    assert "ranks.py" in stacks
    assert "Traceback" not in stacks


@pytest.mark.slow
def test_after_a_hang_a_run_goes_on_from_its_last_checkpoint(tmp_path):
    arguments = flags(tmp_path / "a", hang_timeout=1)
    faults = {0: "hang@step:5"}
    assert Ranks(tmp_path / "log", arguments, world=1, faults=faults).ended()[0].status == 9
    (ended,) = Ranks(tmp_path / "log", arguments, world=1).ended()
    assert ended.status == 0
    assert "after epoch 1" in ended.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "faults"),
    [
        (0, "wait@step:3"),
        (3, "wait@step:3,slow@evaluation,wait@save:6"),
        (1, "wait@data"),  # what is fetched may take its time
        (1, "wait@analysis"),
    ],
)
def test_what_is_slow_or_not_training_is_not_ended(tmp_path, seconds, faults):
    arguments = flags(tmp_path / "a", hang_timeout=seconds)
    (ended,) = Ranks(tmp_path / "log", arguments, world=1, faults={0: faults}).ended()
    assert (ended.status, ended.err) == (0, "")


@pytest.mark.slow
def test_a_process_that_is_stopped_for_longer_than_the_deadline_goes_on(tmp_path):
    arguments = flags(tmp_path / "a", hang_timeout=2)
    # It is slow after it, so that it could be ended for the time before.
    ranks = Ranks(tmp_path / "log", arguments, world=1, faults={0: "SIGSTOP@step:3,slow@step:4"})
    pid = ranks.processes[0].pid
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.05)
    time.sleep(3)
    os.kill(pid, signal.SIGCONT)
    (ended,) = ranks.ended()
    assert (ended.status, ended.err) == (0, "")


@pytest.mark.parametrize("value", ["-1.0", "nan", "soon"])
def test_an_impossible_deadline_is_refused(capsys, value):
    assert cli.main([f"--hang-timeout={value}"]) == 2
    assert capsys.readouterr().err.startswith(f"fasttrain: error: --hang-timeout ({value}): ")


class Backend:
    """Stands for torch's gloo or NCCL."""

    def __init__(self, name: str) -> None:
        self.name, self.limit = lambda: name, 0.0

    def _set_default_timeout(self, limit) -> None:
        self.limit = limit.total_seconds()


@pytest.mark.parametrize("seconds", [None, 0, 1, 300, 5000])
def test_the_deadline_decides_before_gloo_and_gloo_before_nccl(monkeypatch, seconds):
    """On its limit NCCL's own watchdog ends the process without a word of ours."""
    gloo, nccl = Backend("gloo"), Backend("nccl")
    monkeypatch.setattr(backends, "all_backends", lambda: {gloo, nccl})
    backends.set_time_limit(seconds)
    assert nccl.limit >= gloo.limit + 60
    assert gloo.limit > (seconds or 0)
    assert gloo.limit >= (86400 if seconds == 0 else backends.PATIENCE)


@pytest.fixture
def group_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_begun_collectives_are_counted_and_there_may_be_no_group(group_of_one):
    before = backends.begun_collectives()
    dist.all_reduce(torch.ones(2))
    dist.broadcast(torch.ones(2), 0)
    assert backends.begun_collectives() == before + 2
    backends.set_time_limit(5)
    backends.abandon()
    assert not dist.is_initialized()
    assert backends.begun_collectives() == 0
    backends.set_time_limit(5)
    backends.abandon()


@pytest.mark.parametrize("name", ["gloo", "nccl"])
def test_a_failed_group_is_aborted_on_nccl_and_no_end_may_take_long(monkeypatch, name):
    called = []

    def end(what: str):
        return lambda: (called.append(what), time.sleep(60))

    monkeypatch.setattr(backends, "LEFT", 0.2)
    monkeypatch.setattr(backends, "all_backends", lambda: {Backend(name)})
    monkeypatch.setattr(backends, "_abort_process_group", end("nccl"))
    monkeypatch.setattr(dist, "destroy_process_group", end("gloo"))
    began = time.monotonic()
    backends.abandon()
    assert (called, time.monotonic() - began < 5) == ([name], True)


def test_a_failure_is_the_same_for_all_who_read_it():
    found = Failure(1, 9, "training (no progress for 3 s): it hangs", hang=True)
    assert Failure.parsed(json.dumps(found)) == found
    assert found.message.endswith("(0 is none).")
    own = Failure.of(hang_error := KeyError("x"), 2)
    assert own.message.startswith(f"rank 2 ended with KeyError: {hang_error}. All processes end")
