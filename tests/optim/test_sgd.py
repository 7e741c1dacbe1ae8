import pytest
import torch

from fasttrain.errors import EnvironmentProblem
from fasttrain.optim.sgd import apex_problem, sgd
from tests.conftest import tiny_model, tiny_step


def test_it_is_sgd_with_momentum_and_weight_decay():
    model, images = tiny_model(), torch.randn(16, 3, 32, 32)
    optimizer = sgd(model, lr=0.1, momentum=0.9, weight_decay=1e-2)
    weights = [p.detach().clone().double() for p in model.parameters()]
    momenta = [torch.zeros_like(w) for w in weights]
    for _ in range(3):
        model(images).square().mean().backward()
        for parameter, weight, momentum in zip(model.parameters(), weights, momenta, strict=True):
            momentum.mul_(0.9).add_(parameter.grad.double() + 1e-2 * weight)
            weight.sub_(0.1 * momentum)
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
