"""The SGD kernel computes what torch computes, however its tensors lie; overflow writes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fasttrain.engine.step import Step
from fasttrain.errors import EnvironmentProblem
from fasttrain.optim.clip import clip_gradients
from fasttrain.optim.kernel_sgd import KernelSGD
from fasttrain.optim.sgd import sgd
from tests.conftest import tiny_model

kernel = pytest.importorskip("kernels.sgd", reason="triton has wheels for Linux only")

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []  # else in the interpreter
SIZES = (1, 1023, 1025, 2048, 4101)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def odd_model() -> nn.ParameterList:
    """Lengths around a block's, none at all, and convolutions in channels_last, 1x1 among them."""
    convolutions = [noise(5, 3, 3, 3), noise(64, 16, 3, 3), noise(7, 4, 1, 1)]
    weights = [conv.to(memory_format=torch.channels_last) for conv in convolutions]
    return nn.ParameterList([*(noise(n, seed=n) for n in SIZES), noise(0), *weights])


def put_gradients(params, step: int, *, scale: float = 1.0) -> None:
    """New gradients at new addresses, the same ones for every list of the same shapes."""
    for index, param in enumerate(params):
        grad = scale * noise(*param.shape, seed=1000 * step + index)
        param.grad = torch.empty_like(param).copy_(grad)


def tensors_of(optimizer) -> list[Tensor]:
    """Every parameter and every momentum."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    return [*(param.detach() for param in params), *momenta_of(optimizer)]


def momenta_of(optimizer) -> list[Tensor]:
    return [state["momentum_buffer"] for state in optimizer.state.values() if state]


def same(ours, theirs) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("scaling", [None, 0.0, 1.0], ids=["plain", "scaled", "overflow"])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, False), (0.9, True), (0.0, False)])
def test_the_kernel_gives_bitwise_what_its_reference_gives(momentum, nesterov, scaling):
    kinds = [[noise(n, seed=n + part) for n in SIZES] for part in range(3)]
    before, expected = copy.deepcopy(kinds), copy.deepcopy(kinds)
    options = {"momentum": momentum, "weight_decay": 0.01, "nesterov": nesterov}
    if scaling is not None:
        options["grad_scale"] = torch.tensor(1000.0, device=DEVICE)  # whose inverse is not exact
        options["found_inf"] = torch.tensor(scaling, device=DEVICE)
    lr = torch.tensor(0.1, device=DEVICE)
    kernel.sgd_(kernel.rows(*kinds).to(DEVICE), lr, **options)
    kernel._ref(*expected, lr, **options)
    assert all(map(same, kinds, expected))
    assert same(kinds[0], before[0]) == (scaling == 1.0)
    assert same(kinds[2], before[2]) == (scaling == 1.0 or not momentum)
    kernel._ref(*expected, lr, **options | {"weight_decay": 0.0101})  # the control
    kernel.sgd_(kernel.rows(*kinds).to(DEVICE), lr, **options)
    assert all(map(same, kinds, expected)) == (scaling == 1.0)


@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
@pytest.mark.parametrize("nesterov", [False, True])
def test_ten_steps_are_torchs_to_float32_rounding(nesterov, weight_decay):
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov, "weight_decay": weight_decay}
    ours, theirs, wrong = odd_model(), odd_model().double(), odd_model()
    optimizers = [
        KernelSGD(ours, **options),
        torch.optim.SGD(theirs, **options),
        KernelSGD(wrong, **{**options, "momentum": 0.9001}),
    ]
    for step in range(10):
        for optimizer, params in zip(optimizers, (ours, theirs, wrong), strict=True):
            put_gradients(params, step)
            optimizer.step()
    tensors, exact, off = ([t.float() for t in tensors_of(o)] for o in optimizers)
    torch.testing.assert_close(tensors, exact, rtol=4e-6, atol=4e-6)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(off, exact, rtol=4e-6, atol=4e-6)


def test_tensors_off_a_16_byte_boundary_are_updated_and_their_neighbours_are_not():
    params, grads, momenta = (noise(5000, seed=seed) for seed in range(3))
    cut = slice(1, 4500)
    expected = [whole.clone() for whole in (params, grads, momenta)]
    lr, options = torch.tensor(0.1, device=DEVICE), {"momentum": 0.9, "weight_decay": 0.01}
    kernel._ref(*([whole[cut]] for whole in expected), lr, **options)
    table = kernel.rows([params[cut]], [grads[cut]], [momenta[cut]])
    kernel.sgd_(table.to(DEVICE), lr, **options)
    assert same([params, grads, momenta], expected)


def test_a_gradient_in_another_layout_counts_as_the_same_gradient():
    straight, turned = odd_model(), odd_model()
    for params in (straight, turned):
        put_gradients(params, 0)
    for param in turned:
        param.grad = param.grad.contiguous()
    moved = [param for param in turned if param.grad.stride() != param.stride()]
    assert len(moved) >= 2
    optimizers = [KernelSGD(p, lr=0.1, momentum=0.9) for p in (straight, turned)]
    for optimizer in optimizers:
        optimizer.step()
    assert same(*map(tensors_of, optimizers))


def test_a_parameter_without_a_gradient_stays_and_may_get_one_later():
    ours, theirs = odd_model(), odd_model()
    optimizers = [KernelSGD(ours, lr=0.1, momentum=0.9), torch.optim.SGD(theirs, 0.1, 0.9)]
    for step, missing in enumerate((1, 3)):
        for optimizer, params in zip(optimizers, (ours, theirs), strict=True):
            put_gradients(params, step)
            params[missing].grad = None
            optimizer.step()
    optimizers[0].zero_grad()
    optimizers[0].step()  # no gradient at all: nothing to do
    torch.testing.assert_close(list(ours), list(theirs), rtol=4e-6, atol=4e-6)


def test_an_overflow_on_the_first_step_under_a_gradscaler_changes_nothing():
    model = tiny_model().to(DEVICE)
    optimizer = sgd(model, lr=0.1, momentum=0.9, weight_decay=1e-2, provider="kernel")
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=2.0**10)
    before = [tensor.clone() for tensor in tensors_of(optimizer)]
    for overflow in (True, False):
        scaler.scale(model(noise(4, 3, 32, 32)).square().mean()).backward()
        if overflow:
            next(model.parameters()).grad[0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        assert same(tensors_of(optimizer), before) == overflow
        assert scaler.get_scale() == 2.0**9
        optimizer.zero_grad()


def test_a_scaled_gradient_gives_the_step_of_the_plain_one():
    results = []
    for scale in (1.0, 2.0**12):
        model = odd_model()
        optimizer = KernelSGD(model, lr=0.1, momentum=0.9, weight_decay=1e-2)
        put_gradients(model, 0, scale=scale)
        if scale > 1:
            optimizer.grad_scale = torch.tensor(scale, device=DEVICE)
            optimizer.found_inf = torch.zeros((), device=DEVICE)
        optimizer.step()
        results.append(tensors_of(optimizer))
    assert same(*results)


@pytest.mark.parametrize("before", [torch.optim.SGD, KernelSGD])
@pytest.mark.parametrize("after", [torch.optim.SGD, KernelSGD])
def test_a_state_dict_goes_on_in_either_optimizer_bitwise_alike(before, after):
    def make(kind):
        model = odd_model()
        lr = torch.tensor(0.1, device=DEVICE)
        fused = {} if kind is KernelSGD else {"fused": True}
        return model, kind(model, lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True, **fused)

    model, optimizer = make(before)
    for step in range(2):
        put_gradients(model, step)
        optimizer.step()
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    ends = []
    for kind in (after, before):
        other, resumed = make(kind)
        other.load_state_dict(saved[0])
        resumed.load_state_dict(copy.deepcopy(saved[1]))
        assert same(tensors_of(resumed), tensors_of(optimizer))
        assert resumed.param_groups[0].keys() == optimizer.param_groups[0].keys()
        put_gradients(other, 2)
        resumed.step()
        ends.append(tensors_of(resumed))
    put_gradients(model, 2)
    optimizer.step()
    assert same(ends[1], tensors_of(optimizer))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-6, atol=1e-6)


def test_a_state_of_torch_that_has_no_momentum_yet_starts_from_zeros():
    ours, theirs = odd_model(), odd_model()
    optimizer = KernelSGD(ours, lr=0.5, momentum=0.9)
    unused = torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
    optimizer.load_state_dict(unused.state_dict())
    for params, each in ((ours, optimizer), (theirs, unused)):
        put_gradients(params, 0)
        each.step()
    torch.testing.assert_close(tensors_of(optimizer), tensors_of(unused), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("more", [{}, {"nesterov": True, "decay_norms": False}])
def test_the_step_trains_with_it_as_with_torchs(more):
    losses = []
    for provider in ("torch", "kernel"):
        model = tiny_model().to(DEVICE)
        optimizer = sgd(model, lr=0.1, momentum=0.9, weight_decay=0.1, provider=provider, **more)
        if more:
            clip_gradients(optimizer, 0.5)
        step = Step(model, optimizer)
        labels = torch.arange(16, device=DEVICE) % 10
        losses.append([float(step(noise(16, 3, 32, 32), labels)[0]) for _ in range(5)])
        rate = optimizer.param_groups[0]["lr"]
        step.lr = 0.025
        assert optimizer.param_groups[0]["lr"] is rate
        losses[-1].append(float(step(noise(16, 3, 32, 32), labels)[0]))
        losses[-1].append(float(step(noise(16, 3, 32, 32), labels)[0]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_number_as_learning_rate_is_made_a_tensor():
    ours, theirs = odd_model(), odd_model()
    optimizers = [KernelSGD(ours, lr=0.1), torch.optim.SGD(theirs, lr=0.1)]
    for step, lr in enumerate((0.1, 0.02)):
        for optimizer, params in zip(optimizers, (ours, theirs), strict=True):
            optimizer.param_groups[0]["lr"] = lr
            put_gradients(params, step)
            optimizer.step()
    assert optimizers[0].param_groups[0]["lr"].device == DEVICE
    torch.testing.assert_close(list(ours), list(theirs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [noise(6).double(), noise(6, 6)[:, ::2]], ids=["double", "gaps"])
def test_what_the_kernel_would_misread_is_refused(bad):
    param = nn.Parameter(bad)
    param.grad = torch.zeros_like(param)
    with pytest.raises(ValueError, match="dense float32"):
        KernelSGD([param], lr=0.1, momentum=0.9).step()


def test_dampening_from_a_foreign_state_is_refused():
    model = odd_model()
    optimizer = KernelSGD(model, lr=0.1, momentum=0.9)
    foreign = torch.optim.SGD(odd_model(), lr=0.1, momentum=0.9, dampening=0.5)
    optimizer.load_state_dict(foreign.state_dict())
    with pytest.raises(ValueError, match="neither dampening nor maximize"):
        optimizer.step()


def test_on_a_cpu_it_is_refused_in_one_line(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(EnvironmentProblem, match=r"--optimizer \(kernel\): .* CUDA GPU") as caught:
        sgd(tiny_model(), lr=0.1, momentum=0.9, weight_decay=0.0, provider="kernel")
    assert str(caught.value).endswith("Use --optimizer torch.")
    assert caught.value.code == 3


@pytest.mark.gpu
def test_on_a_gpu_the_host_waits_for_nothing():
    model = odd_model()
    optimizer = KernelSGD(model, lr=torch.tensor(0.1, device=DEVICE), momentum=0.9)
    gradients = [[torch.randn_like(param) for param in model] for _ in range(3)]
    try:
        for step_gradients in gradients:
            for param, grad in zip(model, step_gradients, strict=True):
                param.grad = grad
            optimizer.step()
            torch.cuda.set_sync_debug_mode("error")  # from the second step on: the first compiles
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_on_a_gpu_a_captured_step_replays_with_the_rate_of_the_moment():
    ours, theirs = odd_model(), odd_model()
    lr = torch.tensor(0.1, device=DEVICE)
    optimizer = KernelSGD(ours, lr=lr, momentum=0.9)
    reference = torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
    for params, each in ((ours, optimizer), (theirs, reference)):
        put_gradients(params, 0)
        each.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    kept = [param.grad for param in ours]
    for step, rate in enumerate((0.1, 0.01), start=1):
        put_gradients(theirs, step)
        for grad, param in zip(kept, theirs, strict=True):
            grad.copy_(param.grad)
        reference.param_groups[0]["lr"] = rate
        lr.fill_(rate)
        graph.replay()
        reference.step()
    torch.testing.assert_close(list(ours), list(theirs), rtol=1e-6, atol=1e-6)
