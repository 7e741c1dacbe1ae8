import pytest

from fasttrain.console.eta import Estimate, Plan, duration
from fasttrain.engine.state import Run

PLAN = Plan(epochs=10, steps=40, batch_size=128, test_batches=10, test_images=2500, on_cpu=True)


def follow(seconds_a_step, slow_first, steps, *, every=1):
    """An estimate that is told of every `every`-th of `steps` steps, of which the first is slow."""
    estimate, now = Estimate(PLAN), 0.0
    for number in range(1, steps + 1):
        now += seconds_a_step * (slow_first if number == 1 else 1)
        if number == 1 or number % every == 0:
            estimate.reached(number, now)
    return estimate


@pytest.mark.parametrize("every", [1, 5])
def test_after_twenty_steps_the_whole_run_is_foreseen_within_15_percent(every):
    estimate = follow(0.5, 60, 20, every=every)  # the first step took 30 s
    evaluation = 2500 * 0.5 / 128 / 3  # a forward pass: a third of a step's arithmetic
    truth = (400 - 20) * 0.5 + 11 * evaluation
    assert estimate.left(Run(epoch=0, step=20)) == pytest.approx(truth, rel=0.15)


def test_what_the_host_has_only_launched_is_still_to_be_done():
    estimate = follow(0.5, 1, 20)
    assert estimate.left(Run(step=39)) == estimate.left(Run(step=20))


def test_timed_evaluations_replace_the_foreseen_one():
    estimate = follow(0.5, 1, 40)
    estimate.begin()
    run = Run(epoch=1, step=0, eval_seconds=7.0)
    assert estimate.evaluation(run) == pytest.approx(7)
    assert estimate.left(run) == pytest.approx(9 * (40 * 0.5 + 7) + 7, rel=1e-6)
    assert estimate.evaluation(Run(epoch=2, eval_seconds=16.0)) == pytest.approx(8)


def test_a_run_that_is_resumed_within_an_epoch_has_not_just_done_its_steps():
    estimate = Estimate(PLAN)
    estimate.begin(30, 100.0)
    for step in range(31, 36):
        estimate.reached(step, 100 + 0.5 * (step - 30))
    assert (estimate.timed_steps, estimate.timed_seconds) == (3, pytest.approx(1.5))


def test_nothing_is_foreseen_from_warm_up_alone():
    assert follow(0.5, 1, 2).left(Run(step=2)) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (42.4, "42 s"), (190, "3 min 10 s"), (40_800, "11 h 20 min")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
