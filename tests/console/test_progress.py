import io

import pytest
import torch
from rich.console import Console

from fasttrain.cli.flags import read
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
    for module in ("progress", "eta"):
        monkeypatch.setattr(f"fasttrain.console.{module}.perf_counter", lambda: clock[0])
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=terminal)
    run = Run(sums=torch.tensor([0.0, 0.0, 0.0], dtype=torch.float64))
    with Display(console).follow(PLAN) as follower:
        for _ in range(steps):
            clock[0] += seconds
            run.step += 1
            run.sums += torch.tensor([128 * 1.5, 64.0, 128.0])
            follower.step(run)
        run.epoch, run.step = 1, 0
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
        assert (taken.model, taken.epochs) == ("sprint", 8)
