import pytest
import torch

from fasttrain.engine.step import Step
from fasttrain.errors import EnvironmentProblem
from fasttrain.optim.schedule import Plateau
from fasttrain.optim.sgd import apex_problem, muon, sgd
from tests.conftest import tiny_model, tiny_step


@pytest.mark.parametrize("nesterov", [False, True])
def test_it_is_sgd_with_momentum_and_weight_decay(nesterov):
    model, images = tiny_model(), torch.randn(16, 3, 32, 32)
    optimizer = sgd(model, lr=0.1, momentum=0.9, weight_decay=1e-2, nesterov=nesterov)
    weights = [p.detach().clone().double() for p in model.parameters()]
    momenta = [torch.zeros_like(w) for w in weights]
    for _ in range(3):
        model(images).square().mean().backward()
        for parameter, weight, momentum in zip(model.parameters(), weights, momenta, strict=True):
            gradient = parameter.grad.double() + 1e-2 * weight
            momentum.mul_(0.9).add_(gradient)
            weight.sub_(0.1 * (gradient + 0.9 * momentum if nesterov else momentum))
        optimizer.step()
        optimizer.zero_grad()
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(parameter.detach().double(), weight, atol=1e-5, rtol=1e-5)


def test_an_overflow_on_the_first_step_changes_neither_weights_nor_momentum():
    model = tiny_model()
    optimizer = sgd(model, lr=0.1, momentum=0.9, weight_decay=1e-2)
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    # GradScaler passes these to a fused optimizer, so that the host need not read the flag.
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(65536.0), torch.tensor(1.0)
    optimizer.step()
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
        assert not optimizer.state[parameter]["momentum_buffer"].any()
    optimizer.found_inf = torch.tensor(0.0)  # the control: without the flag the step does act
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 65536.0)
    optimizer.step()
    assert not any(map(torch.equal, model.parameters(), before))


def test_without_decay_of_norms_biases_and_vectors_stand_in_a_group_of_their_own():
    """As by timm's param_groups_weight_decay; of an attention the bias has more dimensions."""
    model = tiny_model()
    model.add_module("table", torch.nn.Module())
    model.table.bias = torch.nn.Parameter(torch.zeros(2, 3))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = sgd(model, lr=0.1, momentum=0.9, weight_decay=0.01, decay_norms=False).param_groups
    found = [(g["weight_decay"], [names[id(p)] for p in g["params"]]) for g in groups]
    free = ["1.weight", "1.bias", "4.weight", "4.bias", "8.bias", "table.bias"]
    assert found == [(0.01, ["0.weight", "3.weight", "8.weight"]), (0.0, free)]
    (whole,) = sgd(model, lr=0.1, momentum=0.9, weight_decay=0.01).param_groups  # the control
    assert len(whole["params"]) == len(names)


@pytest.mark.parametrize("make", [sgd, muon])
def test_without_a_gradient_only_what_decays_moves(make):
    model, before = tiny_model(), tiny_model()
    optimizer = make(model, lr=0.1, momentum=0.0, weight_decay=0.5, decay_norms=False)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for weight, old in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(weight, old) == (weight.ndim == 1)


def test_each_group_has_a_rate_of_its_own_which_a_plateau_lowers_once():
    model = tiny_model()
    step = Step(model, sgd(model, lr=0.1, momentum=0.9, weight_decay=0.01, decay_norms=False))
    schedule = Plateau(step.optimizer, patience=0, factor=0.1, threshold=0.0)
    schedule.after_epoch(0.5)
    schedule.after_epoch(0.5)
    assert [float(group["lr"]) for group in step.optimizer.param_groups] == [
        pytest.approx(0.01)
    ] * 2
    step.lr = 0.3
    assert [float(group["lr"]) for group in step.optimizer.param_groups] == [pytest.approx(0.3)] * 2


def test_setting_the_rate_fills_the_same_tensor():
    step = tiny_step(lr=0.1)
    rate = step.optimizer.param_groups[0]["lr"]
    step.lr = 0.025
    assert step.optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(0.025)


def test_apex_that_is_not_there_is_refused_in_one_line():
    problem = apex_problem()
    assert problem is not None
    with pytest.raises(EnvironmentProblem, match="NVIDIA apex is not installed") as caught:
        sgd(tiny_model(), lr=0.1, momentum=0.9, weight_decay=0.0, provider="apex")
    assert "\n" not in str(caught.value)
    assert "--optimizer torch" in str(caught.value)
