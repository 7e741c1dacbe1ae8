"""The average of the weights: torch's own, its place in the step, in graphs and in whole runs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from fasttrain.engine.average import Average, weights
from fasttrain.engine.graphs import GraphedStep
from fasttrain.engine.lr_finder import find_lr, restored
from fasttrain.engine.step import Step
from fasttrain.errors import UsageError
from fasttrain.optim.sgd import sgd
from tests.conftest import tiny_model
from tests.engine.test_step import batch
from tests.taped import Launches, Tape


def averaged_step(decay=0.9, **options):
    model = tiny_model()
    optimizer = sgd(model, lr=0.1, momentum=0.9, weight_decay=5e-4)
    return Step(model, optimizer, average=Average(model, decay), **options)


def numbers(module):
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_it_is_torchs_average_with_the_decay_warmed_up(decay):
    """In the first 12 steps 0.999 is never reached; 0.3 is, with the fourth."""
    step = averaged_step(decay)

    @torch.no_grad()
    def warmed(averages, values, n):
        d = min(decay, float(n) / (float(n) + 9))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - d)
            else:
                average.copy_(value)

    reference = AveragedModel(step.model, multi_avg_fn=warmed, use_buffers=True)
    for seed in range(12):
        step(*batch(seed=seed))
        reference.update_parameters(step.model)
    assert int(step.average.n_averaged) == int(reference.n_averaged) == 12
    pairs = zip(numbers(step.average.module), numbers(reference.module), strict=True)
    for found, expected in pairs:
        torch.testing.assert_close(found, expected)
    trained = zip(numbers(step.average.module), numbers(step.model), strict=True)
    assert not any(torch.equal(a, b) for a, b in trained if a.is_floating_point())


def test_an_average_leaves_the_training_bit_for_bit_as_it_is():
    model = tiny_model()
    plain = Step(model, sgd(model, lr=0.1, momentum=0.9, weight_decay=5e-4))
    step = averaged_step()
    for seed in range(3):
        assert torch.equal(step(*batch(seed=seed))[0], plain(*batch(seed=seed))[0])
    assert all(map(torch.equal, numbers(step.model), numbers(plain.model)))
    assert "average" not in plain.state_dict()


def test_a_step_that_fp16_skips_does_not_count():
    step = averaged_step(amp=torch.float16)
    step(*batch())
    step(*batch(seed=1))
    before = [tensor.clone() for tensor in step.average.parameters()]
    images, labels = batch(seed=2)
    overflow = step.model[-1].weight.register_hook(lambda gradient: gradient * float("inf"))
    step(images, labels)
    overflow.remove()
    assert int(step.average.n_averaged) == 2
    assert all(map(torch.equal, step.average.parameters(), before))
    step(images, labels)
    assert int(step.average.n_averaged) == 3
    assert not any(map(torch.equal, step.average.parameters(), before))


@pytest.mark.parametrize("amp", [None, torch.float16])
def test_a_captured_step_averages_as_a_plain_one(amp):
    tape = Tape()
    plain, graphed = averaged_step(amp=amp), GraphedStep(averaged_step(amp=amp), tape)
    for seed in range(4):
        plain(*batch(seed=seed)), graphed(*batch(seed=seed))
    assert tape.replays == 4
    state, found = plain.state_dict()["average"], graphed.state_dict()["average"]
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert int(state["n_averaged"]) == 4


def test_a_range_test_leaves_the_average_as_it_was():
    step = averaged_step()
    step(*batch())
    before = copy.deepcopy(step.state_dict()["average"])
    find_lr(step, [batch(seed=1), batch(seed=2)], steps=4)
    after = step.state_dict()["average"]
    assert all(torch.equal(after[name], before[name]) for name in before)
    with restored(step):
        step(*batch())
        assert int(step.average.n_averaged) == 2, "the control: inside it moves"


def test_its_state_is_loaded_in_place_and_a_state_without_one_begins_it_anew():
    step, other = averaged_step(), averaged_step()
    for seed in range(3):
        step(*batch(seed=seed))
    places = [tensor.data_ptr() for tensor in numbers(other.average)]
    other.load_state_dict(copy.deepcopy(step.state_dict()))
    assert all(map(torch.equal, numbers(other.average), numbers(step.average)))
    assert places == [tensor.data_ptr() for tensor in numbers(other.average)]
    plain = {name: part for name, part in step.state_dict().items() if name != "average"}
    other.load_state_dict(copy.deepcopy(plain))
    assert int(other.average.n_averaged) == 0
    assert all(map(torch.equal, numbers(other.average.module), numbers(step.model)))


def test_predictions_of_the_average_are_those_of_a_network_with_its_weights():
    step = averaged_step()
    for seed in range(3):
        step(*batch(seed=seed))
    twin = tiny_model()
    twin.load_state_dict(weights(step.state_dict()["average"]))
    images = batch(seed=5)[0]
    step.model.eval(), twin.eval()
    with torch.no_grad():
        found = step.predict_averaged(images)
        torch.testing.assert_close(found, twin(images))
        assert not torch.allclose(found, step.predict(images))


def test_no_update_reads_a_value_on_the_host_and_it_is_few_launches():
    model = tiny_model()
    average, skipped = Average(model, 0.9), torch.zeros((), dtype=torch.bool)
    for module in (model, average):
        module.to("meta")
    with Launches() as counted:
        average.update(model, skipped.to("meta"))
    tensors = numbers(model)
    assert len(counted.names) <= 12 + 3 * len(tensors), "foreach is one on a GPU"


def test_a_network_that_cannot_be_copied_is_refused():
    model = tiny_model()
    model.odd = torch.ones(1, requires_grad=True) * 2  # not a leaf
    with pytest.raises(UsageError, match=r"--ema \(0.9\): this network cannot be copied"):
        Average(model, 0.9)
