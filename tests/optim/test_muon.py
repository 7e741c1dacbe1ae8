"""Muon against its definition in float64, and against torch's SGD where both must agree."""

import copy

import pytest
import torch
from torch import nn

from fasttrain.engine.step import Step
from fasttrain.errors import UsageError
from fasttrain.models import build
from fasttrain.optim.muon import BIAS_RATE, HEAD_RATE, Muon, orthogonal
from fasttrain.optim.schedule import EveryStep
from fasttrain.recipe.recipe import Recipe
from tests.conftest import tiny_model


def optimizer(model, *, lr=0.1, momentum=0.85, weight_decay=0.01, **options):
    return Muon(model, lr=torch.tensor(lr), momentum=momentum, weight_decay=weight_decay, **options)


def give_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", [(16, 16), (16, 144), (64, 27)])
def test_an_update_becomes_nearly_orthogonal_and_keeps_its_directions(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonal(matrix)
    middle = u.T @ found @ v.T  # the identity, were the result exactly orthogonal
    values = middle.diag()
    # Three iterations leave the smallest directions of a square matrix behind; most are near 1.
    assert values.median() == pytest.approx(1.0, abs=0.35)
    assert values.max() < 1.35
    assert (middle - values.diag()).abs().max() < 0.05


def test_the_result_does_not_depend_on_the_size_of_the_gradient():
    torch.manual_seed(0)
    matrix = torch.randn(16, 72)
    torch.testing.assert_close(orthogonal(1e4 * matrix), orthogonal(matrix), atol=0.02, rtol=0)


def test_biases_and_the_head_follow_torchs_sgd_with_nesterov():
    ours, theirs = tiny_model(), tiny_model()
    muon = optimizer(ours)
    kinds = ((1, BIAS_RATE), (2, HEAD_RATE))
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim == n], "lr": 0.1 * ratio}
        for n, ratio in kinds
    ]
    sgd = torch.optim.SGD(groups, momentum=0.85, weight_decay=0.01, nesterov=True)
    for seed in range(4):
        give_gradients(ours, seed)
        give_gradients(theirs, seed)
        muon.step()
        sgd.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        if one.ndim < 3:
            torch.testing.assert_close(one, other)
        else:
            assert not torch.equal(one, other)


def test_a_filter_is_normed_and_moved_by_the_rate_along_the_orthogonal_direction():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3, bias=False).to(memory_format=torch.channels_last)
    before = conv.weight.detach().clone()
    muon = optimizer(conv, lr=0.2)
    give_gradients(conv, 1)
    gradient = conv.weight.grad.clone()
    muon.step()
    normed = before * 8**0.5 / before.norm()
    step = (normed - conv.weight.detach()).flatten(1) / 0.2
    torch.testing.assert_close(step, orthogonal(gradient.flatten(1)), atol=0.02, rtol=0)


def test_momentum_is_remembered_by_a_state_dict():
    models = [tiny_model(), tiny_model(), tiny_model()]
    first, second, forgetful = (optimizer(model) for model in models)
    give_gradients(models[0], 0)
    first.step()
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for model, each in zip(models, (first, second, forgetful), strict=True):
        give_gradients(model, 1)
        each.step()
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])  # the control: without its momentum


@pytest.mark.parametrize("overflow", [0.0, 1.0])
def test_scaled_gradients_are_unscaled_and_an_overflow_changes_nothing_without_a_read(overflow):
    """What a GradScaler hands over are tensors, which the host does not read."""
    plain, scaled = tiny_model(), tiny_model()
    muon, other = optimizer(plain), optimizer(scaled)
    give_gradients(plain, 0)
    give_gradients(scaled, 0)
    for weight in scaled.parameters():
        weight.grad.mul_(1024.0)
    before = copy.deepcopy([*scaled.parameters(), *momenta(other, scaled)])
    other.grad_scale, other.found_inf = torch.tensor(1024.0), torch.tensor(overflow)
    other.step()
    muon.step()
    after = [*scaled.parameters(), *momenta(other, scaled)]
    expected = before if overflow else [*plain.parameters(), *momenta(muon, plain)]
    assert all(map(torch.equal, after, expected))


def momenta(muon, model):
    return [muon.state[weight]["momentum_buffer"] for weight in model.parameters()]


def test_rates_keep_their_ratio_however_the_rate_is_set():
    model = tiny_model()
    step = Step(model, optimizer(model))
    ratios = [1.0, BIAS_RATE, HEAD_RATE]
    step.lr = 0.3
    assert rates(step) == pytest.approx([0.3 * ratio for ratio in ratios])
    schedule = EveryStep(step.optimizer, kind="linear", lr=0.3, steps=10)
    for _ in range(5):
        step.optimizer.step()
        schedule.after_step()
    assert rates(step) == pytest.approx([0.15 * ratio for ratio in ratios])


def test_with_frozen_filters_the_rate_is_still_that_of_filters():
    model = tiny_model()
    for layer in (model[0], model[3]):
        layer.weight.requires_grad_(False)
    step = Step(model, optimizer(model, lr=0.1))
    assert float(step.lr) == pytest.approx(0.1)
    step.lr = 0.3
    assert rates(step) == pytest.approx([0.3, 0.3 * BIAS_RATE, 0.3 * HEAD_RATE])
    schedule = EveryStep(step.optimizer, kind="onecycle", lr=float(step.lr), steps=9)
    for _ in range(2):
        step.optimizer.step()
        schedule.after_step()
    assert float(step.lr) == pytest.approx(0.3)  # the peak, after 30 % of the steps


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))


def test_every_parameter_that_learns_is_in_a_group():
    model = nn.Sequential(tiny_model(), Gain())
    muon = optimizer(model)
    held = {p for group in muon.param_groups for p in group["params"]}
    assert held == set(model.parameters())
    give_gradients(model, 0)
    before = [p.detach().clone() for p in model.parameters()]
    muon.step()
    assert not any(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.Conv1d(3, 4, 3), r"Muon \(weight of shape \(4, 3, 3\)\): supports filters"),
        (nn.Conv3d(3, 4, 3), r"Muon \(weight of shape \(4, 3, 3, 3, 3\)\)"),
        (
            nn.Conv2d(3, 4, 3).requires_grad_(False),
            r"Muon \(0 parameters\): no parameter is trainable",
        ),
    ],
)
def test_a_parameter_of_no_group_is_refused_by_name(layer, said):
    with pytest.raises(UsageError, match=said):
        optimizer(layer)
    if layer.weight.requires_grad:  # the control: it may be frozen
        layer.weight.requires_grad_(False)
        optimizer(layer)


def rates(step):
    return [float(group["lr"]) for group in step.optimizer.param_groups]


def test_the_biases_rate_is_that_of_the_recipe():
    made = build.optimizer(Recipe.named("sprint", bias_rate=75.0, lr=0.1), tiny_model())
    assert [float(group["lr"]) for group in made.param_groups] == pytest.approx(
        [0.1, 7.5, 0.1 * HEAD_RATE]
    )
