"""Spans cost nothing without a profiler; the trace of a real, small training is complete."""

import gzip
import json
import re
import timeit

import pytest
import torch

from fasttrain.engine.loop import fit
from fasttrain.optim.schedule import Plateau
from fasttrain.profile import trace as traces
from fasttrain.profile.trace import span, trace, window
from tests.conftest import tiny_loader, tiny_step


def train(tiny_splits, *, epochs=1, on_step=()):
    """16 steps and 4 test batches an epoch."""
    train_split, test_split = tiny_splits
    step = tiny_step()
    schedule = Plateau(step.optimizer, patience=3, factor=0.1, threshold=0.001)
    test = tiny_loader(test_split, training=False)
    return fit(step, tiny_loader(train_split), test, schedule, epochs, on_step=on_step)


def names(path):
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    return [e["name"] for e in events if e.get("cat") == "user_annotation"]


def test_a_span_that_nobody_records_costs_under_a_microsecond_and_a_half():
    def spanned():
        with span("step"):
            pass

    def recorded():
        with torch.profiler.record_function("step"):
            pass

    off, always = (min(timeit.repeat(f, number=5000, repeat=5)) / 5000 for f in (spanned, recorded))
    assert off < 1.5e-6  # three a step are then under 0.2 % of a step of 2.3 ms
    assert off < always / 3  # the control: what it would cost to record always


def test_a_recorded_span_is_in_any_profilers_trace():
    with torch.profiler.profile() as profile, span("mine"):
        torch.ones(2) + 1
    assert "mine" in [event.key for event in profile.key_averages()]
    assert not isinstance(span("off"), torch.profiler.record_function)


def test_the_window_holds_the_last_steps_and_the_first_test_batches(tiny_splits, tmp_path):
    written = []
    skip, active = window(16, 4)
    assert (skip, active) == (8, 10)
    with trace(tmp_path, skip=skip, active=active, written=written.append) as hook:
        train(tiny_splits, epochs=2, on_step=[hook])
    (path,) = written
    assert re.fullmatch(r"fasttrain\.\d+\.pt\.trace\.json\.gz", path.name)
    assert list(tmp_path.iterdir()) == [path]
    found = names(path)
    assert [found.count(name) for name in ("step", "optimizer", "eval")] == [8, 8, 2]
    assert found.count("data") == 9  # the last one finds that the epoch is over
    assert sum(name.startswith("ProfilerStep#") for name in found) == 10


@pytest.mark.parametrize(
    ("steps", "tests", "expected"),
    [(390, 10, (382, 10)), (9, 1, (1, 9)), (3, 2, (1, 4)), (1, 2, (0, 3)), (2, 0, (1, 1))],
)
def test_short_epochs_have_a_shorter_window_after_one_warm_up_step(steps, tests, expected):
    assert window(steps, tests) == expected


def test_a_run_that_ends_early_leaves_what_was_recorded_or_nothing(tiny_splits, tmp_path):
    written = []
    with trace(tmp_path / "a", skip=14, active=99, written=written.append) as hook:
        train(tiny_splits, on_step=[hook])
    assert names(written[0]).count("step") == 2
    with trace(tmp_path / "b", skip=99, active=5, written=written.append) as hook:
        train(tiny_splits, on_step=[hook])
    assert len(written) == 1
    assert not (tmp_path / "b").exists()


def test_recording_changes_nothing_that_is_computed(tiny_splits, tmp_path):
    with trace(tmp_path, skip=2, active=4) as hook:
        traced = train(tiny_splits, on_step=[hook])
    alone = train(tiny_splits)
    assert [row[:6] for row in traced] == [row[:6] for row in alone]


def test_a_trace_says_nothing_of_who_recorded_it_or_where(tiny_splits, tmp_path):
    import getpass
    import socket

    with trace(tmp_path, skip=2, active=2) as hook:
        train(tiny_splits, on_step=[hook])
    (path,) = tmp_path.iterdir()
    text = gzip.decompress(path.read_bytes()).decode()
    for private in (socket.gethostname(), f"/home/{getpass.getuser()}", str(tmp_path)):
        assert private not in text
    assert traces.WORKER in path.name
