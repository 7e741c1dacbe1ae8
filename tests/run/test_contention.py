"""Fewer threads are advised where they are faster, said once, and change nothing of a training."""

import io

import numpy as np
import pytest
import tiny_runs
import torch
from rich.console import Console

import fasttrain
from fasttrain.console.console import Display
from fasttrain.doctor import doctor, measure, probe
from fasttrain.doctor.bottleneck import verdict
from fasttrain.engine.state import Run
from fasttrain.recipe.recipe import Recipe
from fasttrain.run import contention
from fasttrain.run.contention import Contention, halved, threads
from fasttrain.run.ledger import Ledger
from tests.conftest import tiny_step

SLOW = {8: 16.0, 4: 4.0, 2: 1.0, 1: 3.0}
IMAGES = np.zeros((32, 32, 32, 3), np.uint8)


@pytest.fixture
def timed(monkeypatch):
    """Let a forward pass take what is given for each number of threads."""

    def takes(seconds):
        monkeypatch.setattr(
            Contention, "_seconds", lambda self, images: seconds[torch.get_num_threads()]
        )

    return takes


@pytest.fixture
def clocks(monkeypatch):
    """Clocks, of the wall and of the CPU, that go on by what is put into the list."""
    now = [0.0, 0.0]
    monkeypatch.setattr(contention, "CLOCKS", (lambda: now[0], lambda: now[1]))
    return now


def watch(said):
    return Contention(tiny_step(), IMAGES, ledger=Ledger(0.0), log=said.append)


@pytest.mark.parametrize(
    ("used", "seconds", "found"),
    [
        (8, SLOW, (2, 16.0)),
        (2, {2: 3.0, 1: 1.0}, (1, 3.0)),
        (2, {2: 1.4, 1: 1.0}, None),
        (2, {2: 1.0, 1: 1.9}, None),
        (6, {6: 5.0, 3: 2.0, 1: 1.0}, (1, 5.0)),
        (8, {8: 1.0, 4: 2.0}, None),
    ],
)
def test_fewer_threads_are_found_whatever_their_number(used, seconds, found, timed):
    timed(seconds)
    with threads(used):
        watching = watch([])
        assert watching.fewer() == (found and pytest.approx(found))
        assert torch.get_num_threads() == used


def test_threads_that_have_their_cores_are_never_timed(timed, clocks):
    timed({})
    with threads(2):
        said = []
        watching = watch(said)
        for _ in range(9):
            clocks[0] += 10.0
            clocks[1] += 10.0 * 2 * (contention.KEPT_AWAY + 0.01)
            watching.epoch(Run())
    assert (said, watching.checks) == ([], contention.CHECKS)


@pytest.mark.parametrize(("slowly", "lines", "checks"), [(3.0, 1, 0), (1.0, 0, 0)])
def test_threads_kept_from_their_cores_are_timed_a_few_times_and_told_once(
    slowly, lines, checks, timed, clocks
):
    timed({2: slowly, 1: 1.0})
    with threads(2):
        said = []
        watching = watch(said)
        for _ in range(9):
            clocks[0] += 10.0
            clocks[1] += 10.0 * 2 * 0.33
            watching.epoch(Run())
    assert (len(said), watching.checks) == (lines, checks)
    assert not said or "OMP_NUM_THREADS=1" in said[0]


def test_one_thread_is_not_watched():
    assert watch([]).checks == 0


@pytest.mark.parametrize(("slowly", "lines"), [(3.0, 1), (1.0, 0)])
def test_a_run_says_it_once(slowly, lines, timed, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(contention, "KEPT_AWAY", 1e9)
    timed({2: slowly, 1: 1.0})
    text = io.StringIO()
    with threads(2):
        display = Display(Console(file=text, width=300))
        fasttrain.train(tiny_runs.small(epochs=3), out=tmp_path / "a", display=display)
    assert text.getvalue().count("2 threads are slower than 1 here") == lines


def test_looking_for_it_changes_nothing_of_the_training(tiny, tmp_path, monkeypatch):
    ends = []
    for name, suspicion in (("never", 0.0), ("always", 1e9)):
        monkeypatch.setattr(contention, "KEPT_AWAY", suspicion)
        monkeypatch.setattr(contention, "SECONDS", 0.05)
        with threads(2):
            fasttrain.train(tiny_runs.small(epochs=3), out=tmp_path / name)
        ends.append(tiny_runs.end(tmp_path / name))
    assert tiny_runs.same(*ends)


@pytest.mark.parametrize(
    ("rates", "tried"),
    [
        ({4: 100, 2: 300, 1: 200}, {4: 100, 2: 300, 1: 200}),
        ({8: 100, 4: 300, 2: 900, 1: 1000}, {4: 300, 2: 900, 1: 1000}),
        ({8: 100, 4: 50}, {4: 50}),
        ({1: 100}, {}),
    ],
)
def test_threads_are_halved_as_long_as_that_gains(rates, tried):
    used = max(rates)
    found = halved(rates.__getitem__, used, rates[used], worth=1.05)
    assert found == {count: rate for count, rate in tried.items() if count != used}


@pytest.mark.parametrize(
    ("cores", "used", "best"), [(2, 2, 1), (1, 2, 1), (16, 16, 4), (16, 1, 16), (2, 2, 2)]
)
def test_the_doctor_finds_the_number_of_threads_whatever_that_of_cores(
    cores, used, best, monkeypatch
):
    """Every other number than the best is the slower the further it is from it."""

    def rate(step, batch, *, seconds):
        far = max(torch.get_num_threads(), best) / min(torch.get_num_threads(), best)
        return probe.Rate(1000 / far, 3, 1000 / far, 1000 / far)

    halves, log = doctor.images(), []
    recipe = Recipe(device="cpu", loader="resident", batch_size=2, amp="off", compile="off")
    of = measure.workload(recipe, torch.device("cpu"), halves, seconds=0.1)
    monkeypatch.setattr(measure, "step_rate", rate)
    monkeypatch.setattr(measure, "_cores", lambda: cores)
    monkeypatch.setattr(measure, "precisions", lambda device: ("off",))
    with threads(used):
        found = measure.measure(of, seconds=0.1, log=log.append)
    advice = [line for line in verdict(found).splitlines() if "wrong number of threads" in line]
    if best == used:
        assert not advice
    else:
        assert f"OMP_NUM_THREADS={best} instead of {used}" in advice[0]
    assert torch.get_num_threads() == 1
