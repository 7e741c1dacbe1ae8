"""The warm-up against torch's LinearLR and SequentialLR, before every schedule."""

import pytest
import torch
from torch.optim import lr_scheduler as torchs

from fasttrain.optim.schedule import EveryStep, Plateau
from fasttrain.optim.warm_up import WarmUp
from tests.conftest import tiny_step
from tests.engine.test_step import of_two_rates

WARM, STEPS = 5, 25
KINDS = ("plateau", "cosine", "linear", "onecycle")


def scheduled(step, kind, *, warm=WARM, steps=STEPS, lr=0.1):
    if kind == "plateau":
        made = Plateau(step.optimizer, patience=0, factor=0.1, threshold=0.001)
    else:
        made = EveryStep(step.optimizer, kind=kind, lr=lr, steps=steps - warm)
    return WarmUp(made, step.optimizer, steps=warm)


def advance(step, schedule, count):
    """The rates of so many steps, each followed by an epoch's end without a gain."""
    rates = []
    for _ in range(count):
        rates.append(float(step.lr))
        step.optimizer.step()
        schedule.after_step()
        schedule.after_epoch(0.5)
    return rates


REFERENCES = {
    "cosine": lambda optimizer: torchs.CosineAnnealingLR(optimizer, STEPS - WARM),
    "linear": lambda optimizer: torchs.LinearLR(optimizer, 1.0, 0.0, STEPS - WARM),
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_it_is_torchs_linear_warm_up_and_then_the_schedule(kind):
    step, weight = tiny_step(lr=0.1), torch.nn.Parameter(torch.zeros(1))
    rate, found = step.lr, advance(step, scheduled(step, kind), STEPS)
    optimizer, expected = torch.optim.SGD([weight], lr=0.1), []
    warm = torchs.LinearLR(optimizer, start_factor=1 / (WARM + 1), total_iters=WARM)
    both = torchs.SequentialLR(optimizer, [warm, REFERENCES[kind](optimizer)], [WARM])
    for _ in range(STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[WARM] == max(found) == pytest.approx(0.1)
    assert step.lr is rate  # filled in place


def test_onecycle_is_entered_at_its_first_rate_and_peaks_at_the_asked_one():
    step = tiny_step(lr=0.1)
    found = advance(step, scheduled(step, "onecycle", steps=105), 105)
    plain = tiny_step(lr=0.1)
    cycle = EveryStep(plain.optimizer, kind="onecycle", lr=0.1, steps=100)
    assert found[WARM:] == advance(plain, cycle, 100)
    first = [found[WARM] * k / (WARM + 1) for k in range(1, WARM + 1)]
    assert found[:WARM] == pytest.approx(first)
    assert max(found) == pytest.approx(0.1, rel=1e-3)


def test_a_plateau_waits_for_the_end_of_the_warm_up():
    step = tiny_step(lr=0.1)
    found = advance(step, scheduled(step, "plateau"), WARM + 3)
    rise = [0.1 * k / (WARM + 1) for k in range(1, WARM + 1)]
    assert found == pytest.approx([*rise, 0.1, 0.01, 0.001], rel=1e-5)
    assert found[WARM] == float(torch.tensor(0.1)), "to the last bit"


def test_groups_keep_their_ratios():
    for kind in KINDS:
        step = of_two_rates(0.1, 0.02)
        schedule = scheduled(step, kind)
        for _ in range(STEPS - 1):
            first, second = (float(group["lr"]) for group in step.optimizer.param_groups)
            assert second / first == pytest.approx(0.2)
            advance(step, schedule, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("done", [3, WARM, 9])
def test_a_restored_one_goes_on_as_if_nothing_had_been(kind, done):
    step = tiny_step(lr=0.1)
    schedule = scheduled(step, kind)
    advance(step, schedule, done)
    saved = torch.utils._pytree.tree_map(
        lambda x: x.clone() if isinstance(x, torch.Tensor) else x,
        [step.state_dict(), schedule.state_dict()],
    )
    ahead = advance(step, schedule, 8)
    for sought in (True, False):
        other = tiny_step(lr=0.7)
        resumed = scheduled(other, kind, lr=0.7)
        other.load_state_dict(saved[0])
        resumed.load_state_dict(saved[1])
        if sought:
            resumed.seek(done)
        assert advance(other, resumed, 8) == ahead
    control = tiny_step(lr=0.1)  # the same weights and rate, but a warm-up that starts anew
    fresh = scheduled(control, kind)
    control.load_state_dict(saved[0])
    assert advance(control, fresh, 8) != ahead


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("warm", "done"), [(8, 3), (3, 3), (3, 4), (WARM, 3), (WARM, 9), (8, 6)])
def test_with_another_number_of_steps_and_rate_it_is_where_one_of_those_would_be(kind, warm, done):
    """As a run goes on whose batch has become another, which changes the steps of an epoch."""
    first = tiny_step(lr=0.1)
    schedule = scheduled(first, kind)
    advance(first, schedule, min(done, 4 if kind == "plateau" else done))
    resumed = tiny_step(lr=0.01)
    other = scheduled(resumed, kind, warm=warm, lr=0.01)
    resumed.load_state_dict(first.state_dict())
    other.load_state_dict(schedule.state_dict())
    resumed.lr = 0.2
    other.set_peak(0.2)
    other.seek(done)
    expected = tiny_step(lr=0.2)
    like = scheduled(expected, kind, warm=warm, lr=0.2)
    for _ in range(done):
        expected.optimizer.step()
        like.after_step()
    assert float(resumed.lr) == pytest.approx(float(expected.lr), rel=1e-5)
    assert advance(resumed, other, 4) == pytest.approx(advance(expected, like, 4), rel=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [{"warmed": -1}, {"warmed": "x"}, {"warmed": True}, {"warmed": 9}, {"warm_up": None}],
)
def test_a_state_that_is_none_of_a_warm_up_is_refused(wrong):
    step = tiny_step(lr=0.1)
    schedule = scheduled(step, "cosine")
    schedule.load_state_dict(schedule.state_dict())  # the control
    with pytest.raises(ValueError, match="warm-up"):
        schedule.load_state_dict({**schedule.state_dict(), **wrong})
