"""AdamW against its formula in float64, and with the loss scale of fp16."""

import copy

import pytest
import torch

from fasttrain.engine.step import Step
from fasttrain.optim.sgd import adamw
from tests.conftest import tiny_model
from tests.engine.test_step import batch


def adamw_step(*, lr=0.01, **options):
    model = tiny_model()
    return Step(model, adamw(model, lr=lr, weight_decay=0.1), **options)


def test_it_is_adam_with_decoupled_weight_decay():
    model = tiny_model()
    optimizer = adamw(model, lr=0.1, momentum=0.8, weight_decay=1e-2)
    weights = [p.detach().clone().double() for p in model.parameters()]
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    for t in range(1, 5):
        for i, p in enumerate(model.parameters()):
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
            g = p.grad.double()
            first[i] = 0.8 * first[i] + 0.2 * g
            second[i] = 0.999 * second[i] + 0.001 * g * g
            update = first[i] / (1 - 0.8**t) / ((second[i] / (1 - 0.999**t)).sqrt() + 1e-8)
            weights[i] = weights[i] * (1 - 0.1 * 1e-2) - 0.1 * update
        optimizer.step()
    for p, weight in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(p.detach().double(), weight, atol=1e-5, rtol=1e-5)


def test_an_overflow_changes_neither_weights_nor_averages_nor_the_count_of_steps():
    step, (images, labels) = adamw_step(amp=torch.float16), batch()
    values = [*step.model.parameters()]
    values += [value for of in step.optimizer.state.values() for value in of.values()]
    before = copy.deepcopy(values)
    step(images * float("inf"), labels)
    assert all(map(torch.equal, values, before))
    step.model.load_state_dict(tiny_model().state_dict())  # BatchNorm did see the infinities
    step(images, labels)
    assert not any(map(torch.equal, values, before))


def test_state_goes_round_bitwise_and_keeps_the_rates_tensor():
    step, (images, labels) = adamw_step(), batch()
    step(images, labels)
    saved = copy.deepcopy(step.state_dict())
    ahead = [step(images, labels)[0] for _ in range(3)]
    other = adamw_step(lr=0.5)
    rate = other.lr
    other.load_state_dict(saved)
    assert other.lr is rate
    assert all(torch.equal(other(images, labels)[0], loss) for loss in ahead)
    control = adamw_step()  # without the averages the losses part
    control.model.load_state_dict(saved["model"])
    assert not all(torch.equal(control(images, labels)[0], loss) for loss in ahead)


def test_frozen_weights_have_no_state():
    model = tiny_model()
    model[0].weight.requires_grad_(False)
    optimizer = adamw(model, lr=0.1)
    assert set(optimizer.state) == set(model.parameters()) - {model[0].weight}


@pytest.mark.parametrize("decay_norms", [True, False])
def test_without_a_gradient_only_what_decays_moves(decay_norms):
    model = tiny_model()
    optimizer = adamw(model, lr=0.1, weight_decay=0.5, decay_norms=decay_norms)
    before = copy.deepcopy(list(model.parameters()))
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for weight, old in zip(model.parameters(), before, strict=True):
        share = 0.95 if weight.ndim > 1 or decay_norms else 1.0
        torch.testing.assert_close(weight.detach(), share * old.detach())
