import math

import pytest
import torch

from fasttrain.optim.schedule import EveryStep, Plateau
from tests.conftest import tiny_step


def plateau(step):
    return Plateau(step.optimizer, patience=3, factor=0.1, threshold=0.001)


def test_plateau_drops_after_more_than_three_epochs_without_a_gain():
    step = tiny_step(lr=0.1)
    schedule, rates = plateau(step), []
    # 0.5005 gains half a tenth of a point over 0.5: no progress. So do equal and lower ones not.
    for accuracy in (0.4, 0.5, 0.5005, 0.5005, 0.49, 0.5, 0.6, 0.6):
        schedule.after_epoch(accuracy)
        rates.append(round(float(step.lr), 6))
    assert rates == [0.1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]


def test_plateau_fills_the_rates_tensor_in_place():
    step = tiny_step(lr=0.1)
    rate, schedule = step.lr, plateau(step)
    for _ in range(5):
        schedule.after_epoch(0.1)
    assert step.lr is rate
    assert float(rate) == pytest.approx(0.01)


def test_cosine_is_a_half_cosine_over_the_steps():
    step = tiny_step(lr=0.2)
    schedule = EveryStep(step.optimizer, kind="cosine", lr=0.2, steps=40)
    for done in range(1, 41):
        step.optimizer.step()
        schedule.after_step()
        expected = 0.1 * (1 + math.cos(math.pi * done / 40))
        assert float(step.lr) == pytest.approx(expected, abs=1e-6)


def test_linear_falls_straight_to_zero_and_stays_there():
    step = tiny_step(lr=0.2)
    schedule, rate = EveryStep(step.optimizer, kind="linear", lr=0.2, steps=40), step.lr
    for done in range(1, 42):
        step.optimizer.step()
        schedule.after_step()
        assert float(step.lr) == pytest.approx(0.2 * max(0, 1 - done / 40), abs=1e-6)
    assert step.lr is rate  # filled in place


def test_onecycle_peaks_at_the_asked_rate_after_three_tenths():
    step = tiny_step(lr=0.2)
    schedule, rates = EveryStep(step.optimizer, kind="onecycle", lr=0.2, steps=100), []
    for _ in range(100):
        rates.append(float(step.lr))
        step.optimizer.step()
        schedule.after_step()
    peak = max(range(100), key=rates.__getitem__)
    assert 27 <= peak <= 31
    assert max(rates) == pytest.approx(0.2, rel=1e-3)
    assert rates[0] == pytest.approx(0.2 / 25, rel=1e-3)
    assert float(step.lr) < 1e-4


@pytest.mark.parametrize("kind", ["plateau", "cosine", "linear", "onecycle"])
def test_a_restored_schedule_goes_on_as_if_nothing_had_been(kind):
    def make(step):
        if kind == "plateau":
            return plateau(step)
        return EveryStep(step.optimizer, kind=kind, lr=0.1, steps=30)

    def advance(step, schedule, count):
        rates = []
        for i in range(count):
            step.optimizer.step()
            schedule.after_step()
            schedule.after_epoch(0.3 if i % 7 else 0.31)
            rates.append(float(step.lr))
        return rates

    first = tiny_step(lr=0.1)
    schedule = make(first)
    advance(first, schedule, 10)
    saved = [first.state_dict(), schedule.state_dict()]
    saved = torch.utils._pytree.tree_map(
        lambda x: x.clone() if isinstance(x, torch.Tensor) else x, saved
    )
    ahead = advance(first, schedule, 15)
    second = tiny_step(lr=0.1)
    resumed = make(second)
    second.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert advance(second, resumed, 15) == ahead
    control = tiny_step(lr=0.1)  # the same weights and rate, but a schedule that starts anew
    fresh = make(control)
    control.load_state_dict(saved[0])
    assert advance(control, fresh, 15) != ahead


@pytest.mark.parametrize("kind", ["cosine", "linear", "onecycle"])
@pytest.mark.parametrize(("done", "steps"), [(10, 60), (30, 60), (20, 25)])
def test_a_schedule_restored_for_another_number_of_steps_is_where_one_of_that_number_would_be(
    kind, done, steps
):
    def made(steps, *, after=0):
        step = tiny_step(lr=0.1)
        schedule = EveryStep(step.optimizer, kind=kind, lr=0.1, steps=steps)
        advance(step, schedule, after)
        return step, schedule

    def advance(step, schedule, count):
        rates = [float(step.lr)]
        for _ in range(count):
            step.optimizer.step()
            schedule.after_step()
            rates.append(float(step.lr))
        return rates

    expected = advance(*made(steps, after=done), steps - done)
    first, schedule = made(30, after=done)
    resumed = tiny_step(lr=0.02)
    rate = resumed.lr
    other = EveryStep(resumed.optimizer, kind=kind, lr=0.02, steps=steps)
    resumed.load_state_dict(first.state_dict())
    other.load_state_dict(schedule.state_dict())
    assert float(rate) != expected[0], "the control: the checkpoint has the other curve's rate"
    other.seek(done)
    assert advance(resumed, other, steps - done) == expected
    assert resumed.lr is rate


def test_one_restored_for_the_same_steps_keeps_its_very_rate():
    step = tiny_step(lr=0.1)
    schedule = EveryStep(step.optimizer, kind="cosine", lr=0.1, steps=30)
    for _ in range(10):
        step.optimizer.step()
        schedule.after_step()
    step.lr = 0.0123  # which no curve has
    schedule.load_state_dict(schedule.state_dict())
    schedule.seek(10)
    assert float(step.lr) == pytest.approx(0.0123)
    schedule.seek(9)
    assert float(step.lr) != pytest.approx(0.0123)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("last_epoch", "many"),
        ("last_epoch", True),
        ("best", float("nan")),
        ("best", "0.5"),
        ("_last_lr", [0.1, 0.1]),
        ("_last_lr", None),
        ("num_bad_epochs", [1]),
    ],
)
def test_a_state_that_is_none_of_a_schedule_is_refused(name, value):
    step = tiny_step(lr=0.1)
    schedule = Plateau(step.optimizer, patience=1, factor=0.1, threshold=0.0)
    good = schedule.state_dict()
    schedule.load_state_dict(good)
    with pytest.raises(ValueError, match=name):
        schedule.load_state_dict({**good, name: value})


def test_names_that_a_schedule_does_not_have_are_left_where_they_are():
    step = tiny_step(lr=0.1)
    schedule = EveryStep(step.optimizer, kind="cosine", lr=0.1, steps=30)
    schedule.load_state_dict({**schedule.state_dict(), "step": 3, "optimizer": None})
    step.optimizer.step()
    schedule.after_step()
    assert schedule.scheduler.last_epoch == 1
