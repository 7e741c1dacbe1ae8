import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from fasttrain.cli.flags import read
from fasttrain.console import progress
from fasttrain.console.console import Display
from fasttrain.console.eta import Plan
from fasttrain.engine.state import Epoch, Run
from fasttrain.recipe.named import faster
from fasttrain.recipe.recipe import make

PLAN = Plan(
    epochs=50,
    steps=390,
    batch_size=128,
    test_batches=40,
    test_images=10_000,
    on_cpu=True,
    faster="--recipe sprint",
)


def follow(terminal, seconds, steps, monkeypatch):
    """The output of a run whose `steps` steps take `seconds` each."""
    clock = [0.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: clock[0])
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=terminal)
    run = Run(sums=torch.tensor([0.0, 0.0, 0.0], dtype=torch.float64))
    with Display(console).follow(PLAN) as follower:
        for _ in range(steps):
            clock[0] += seconds
            run.step += 1
            run.seconds = clock[0]
            run.sums += torch.tensor([128 * 1.5, 64.0, 128.0])
            follower.step(run)
        run.epoch, run.step, run.eval_seconds = 1, 0, 5.0
        run.history.append(Epoch(1, 0.05, 1.5, 0.5, 1.25, 0.625, 40.0, 1000.0, 0.1))
        follower.epoch(run)
    return text.getvalue()


def test_plain_lines_state_loss_accuracy_speed_and_what_is_left(monkeypatch):
    said = follow(False, 0.1, 25, monkeypatch).splitlines()
    state = next(line for line in said if "step 20 of 390" in line)
    assert "loss 1.500, accuracy 50.00%, 1,280 images/s" in state
    left = (50 * 390 - 20) * 0.1 + 51 * 10_000 / 1280 / 3
    assert f"{left // 60:.0f} min" in state
    row = said[-1].split()
    assert row[:6] == ["1", "1.5000", "50.00%", "1.2500", "62.50%", "0.05"]


def test_a_mission_that_takes_days_on_a_cpu_says_so_early_and_once(monkeypatch):
    said = follow(False, 2.0, 25, monkeypatch)
    assert said.count("On this CPU, at 64 images/s, the whole run takes about 1") == 1
    assert said.index("On this CPU") < said.index("step 20 of 390")
    assert "For a result today: --recipe sprint.\n" in said
    assert "On this CPU" not in follow(False, 0.001, 25, monkeypatch)


def test_a_terminal_gets_two_bars_with_the_same_state(monkeypatch):
    said = follow(True, 0.3, 25, monkeypatch)
    assert "\x1b[" in said
    assert "epoch 1" in said
    assert "25/390" in said
    assert "images/s" in said


class Gpu:
    """A GPU that needs 2.5 ms a step, with a host that launches one in 0.3 ms and never waits."""

    HOST, STEP = 0.0003, 0.0025

    def __init__(self, patches):
        self.now, self.late = 0.0, 0.0
        patches.setattr(progress, "perf_counter", lambda: self.now)
        patches.setattr(progress, "_to_host", lambda sums: (sums.clone(), self.event()))
        self.run = Run(sums=torch.zeros(3, dtype=torch.float64))

    def event(self):
        arrives = self.run.step * self.STEP + self.late
        return SimpleNamespace(query=lambda: self.now >= arrives)

    def launch(self, follower, steps):
        for _ in range(steps):
            self.now += self.HOST
            self.run.step += 1
            self.run.seconds = self.now
            self.run.sums += torch.tensor([128 * 1.5, 64.0, 128.0])
            follower.step(self.run)


def test_a_line_waits_for_numbers_that_have_arrived_and_the_host_does_not(monkeypatch):
    """Before, the first line said "loss nan", and the next ones what was 30 s old."""
    text, gpu = io.StringIO(), Gpu(monkeypatch)
    with Display(Console(file=text, width=120)).follow(PLAN) as follower:
        gpu.launch(follower, 20)
        assert "step" not in text.getvalue(), "the line is due, and its numbers are under way"
        gpu.launch(follower, 70)
        (line,) = (line for line in text.getvalue().splitlines() if ", step " in line)
        assert "step 10 of 390: loss 1.500, accuracy 50.00%" in line
        gpu.late = 1e9
        follower.due = True
        gpu.launch(follower, 300)
        assert text.getvalue().count(", step ") == 1, "a copy that never arrives is never read"


def test_speed_and_time_left_are_those_of_the_device_and_not_of_the_host(monkeypatch):
    """The host alone would have said 427,000 images/s; the device does 51,200."""
    text, gpu = io.StringIO(), Gpu(monkeypatch)
    follower = progress.ProgressLines(lambda line: text.write(line + "\n"), PLAN)
    gpu.HOST = 0.002  # with a loader that is nearly as slow as the device
    gpu.launch(follower, 390)
    assert follower.estimate.images_per_second == pytest.approx(128 / 0.0025, rel=0.05)
    gpu.HOST = 0.0003
    for epoch in range(2, 4):
        gpu.run.epoch, gpu.run.step, gpu.run.phase = epoch - 1, 390, "test"
        gpu.run.seconds = 390 * gpu.STEP  # at the end of an epoch the loop waits
        follower.step(gpu.run)
        gpu.run.history.append(Epoch(1, 0.05, 1.5, 0.5, 1.25, 0.625, 1.0, 1000.0, 0.1))
        gpu.run.epoch, gpu.run.step, gpu.run.phase, gpu.run.eval_seconds = epoch, 0, "train", 0.4
        follower.epoch(gpu.run)
        gpu.now = 0.0
        gpu.launch(follower, 390)
        assert follower.estimate.images_per_second == pytest.approx(128 / 0.0025, rel=0.05)
    left = 47 * 390 * 0.0025 + 48 * 0.4 / 3
    assert follower.estimate.left(gpu.run) == pytest.approx(left, rel=0.1)


def test_an_epoch_that_is_over_leaves_no_copy_to_the_next(monkeypatch):
    gpu = Gpu(monkeypatch)
    running = progress.RunningMetrics()
    gpu.run.step = 390
    running.send(gpu.run)
    gpu.now = 1e9
    running.forget()
    assert not running.arrived()
    gpu.run.step = 1
    running.send(gpu.run)
    assert running.arrived()
    assert running.step == 1
    assert not running.arrived(), "only once"


def test_a_bar_over_steps_is_one_line_where_there_is_no_terminal():
    text = io.StringIO()
    with Display(Console(file=text)).steps("range test", 25) as show:
        show(10)
    assert text.getvalue() == "  range test: 25 steps\n"
    text = io.StringIO()
    with Display(Console(file=text, force_terminal=True, width=80)).steps("range test", 25) as show:
        show(10)
    assert "10/25" in text.getvalue()


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({}, "--recipe sprint"),
        ({"recipe": "reference"}, "--recipe sprint"),
        ({"recipe": "sprint", "target_accuracy": 0.94}, "--recipe sprint --target-accuracy 0.88"),
        ({"recipe": "sprint"}, "--recipe sprint --target-accuracy 0.88"),
        ({"recipe": "sprint", "target_accuracy": 0.88}, ""),
    ],
)
def test_what_is_advised_is_faster_than_what_is_done_and_can_be_typed(given, advice):
    asked = make(given)
    assert faster(asked.recipe, asked.target_accuracy) == advice
    taken = make(read(advice.split())[2])
    cost = (lambda r: r.epochs * sum(map(int, r.widths.split(",")))) if advice else lambda r: 0
    if asked.model == "sprint":
        assert cost(taken) <= cost(asked)
    elif advice:
        assert (taken.model, taken.epochs) == ("sprint", 7)
