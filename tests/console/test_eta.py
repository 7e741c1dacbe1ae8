import pytest

from fasttrain.console.eta import Estimate, Plan, duration
from fasttrain.engine.state import Run

PLAN = Plan(epochs=10, steps=40, batch_size=128, test_batches=10, test_images=2500, on_cpu=True)


def follow(seconds_a_step, slow_first, steps):
    estimate, now = Estimate(PLAN), 0.0
    estimate.last = now
    for number in range(steps):
        now += seconds_a_step * (slow_first if number == 0 else 1)
        estimate.step_done(now)
    return estimate, now


def test_after_twenty_steps_the_whole_run_is_foreseen_within_15_percent():
    estimate, _ = follow(0.5, 60, 20)  # the first step took 30 s
    evaluation = 2500 * 0.5 / 128 / 3  # a forward pass: a third of a step's arithmetic
    truth = (400 - 20) * 0.5 + 11 * evaluation
    assert estimate.left(Run(epoch=0, step=20)) == pytest.approx(truth, rel=0.15)


def test_a_timed_evaluation_replaces_the_foreseen_one():
    estimate, now = follow(0.5, 1, 40)
    estimate.test_batch_done(now + 1)
    estimate.test_batch_done(now + 7)
    estimate.epoch_done(now + 7)
    assert estimate.evaluation() == pytest.approx(7)
    assert estimate.left(Run(epoch=1, step=0)) == pytest.approx(9 * (40 * 0.5 + 7) + 7, rel=1e-6)


def test_nothing_is_foreseen_from_warm_up_alone():
    estimate, _ = follow(0.5, 1, 2)
    assert estimate.left(Run(step=2)) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (42.4, "42 s"), (190, "3 min 10 s"), (40_800, "11 h 20 min")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
