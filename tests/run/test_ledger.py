import io
import json
import signal
import time

import pytest
import tiny_runs
import torch
from rich.console import Console
from torch import nn

import fasttrain
from fasttrain.console.console import Display
from fasttrain.models.flops import training_flops
from fasttrain.models.resnet import ResNet18
from fasttrain.run import ledger as ledger_module
from fasttrain.run.ledger import (
    GEMM_SIDES,
    TF32,
    Ledger,
    arithmetic,
    gemm_rate,
    summarise,
)


def by_formula(model):
    """2 x multiply-adds of every convolution and linear layer; three times for a training image,
    except that nobody needs the gradient of the pixels."""
    total, first = 0, []

    def count(module, args, out):
        nonlocal total
        if isinstance(module, nn.Conv2d):
            flops = 2 * out[0].numel() * module.in_channels * module.kernel_size[0] ** 2
        else:
            flops = 2 * module.in_features * module.out_features
        total += flops * (3 if first else 2)
        first.append(module)

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    model(torch.zeros(2, 3, 32, 32))
    return total


def test_torchs_counter_agrees_with_the_formula():
    assert training_flops(ResNet18()) == pytest.approx(by_formula(ResNet18()), rel=1e-9)
    assert training_flops(ResNet18()) == pytest.approx(5.745e9, rel=1e-3)


def test_a_network_whose_forward_looks_at_numbers_is_counted_too():
    class Choosy(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)) * (1 if x.sum() > 0 else 2)

    model = Choosy(12, 5)
    state = torch.get_rng_state()
    assert training_flops(model, (3, 2, 2)) == 2 * 2 * 12 * 5  # no gradient of the images
    assert model.weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)


def test_the_gemm_rate_is_that_of_this_machine():
    rate = gemm_rate(torch.device("cpu"), torch.float32, seconds=0.2)
    assert 1e9 < rate < 1e15


@pytest.mark.parametrize("flops", [10.0**power for power in range(7, 17)])
def test_a_measurement_of_the_rate_keeps_its_second_however_slow_the_machine(flops):
    took = []

    def product(side):
        took.append(2 * side**3 / flops)
        return took[-1]

    assert ledger_module._best_rate(product, 1.0) == pytest.approx(flops)
    assert sum(took[1:]) < 1.5  # the smallest product is the least that tells anything
    assert max(took[1:], default=0) <= max(1 / 3, took[0])
    sides = [round((seconds * flops / 2) ** (1 / 3)) for seconds in took]
    assert (max(sides) == GEMM_SIDES["cpu"][-1]) == (flops >= 6e10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_type_of_numbers_is_measured_in_about_a_second(dtype):
    """Emulated fp16 took 50 s for a single product of side 2048."""
    began = time.process_time()
    assert gemm_rate(torch.device("cpu"), dtype, seconds=0.3) > 1e6
    assert time.process_time() - began < 2


@pytest.fixture
def tf32():
    """torch's switch, on as in a run; pytest cannot patch it."""
    switch = torch.backends.cuda.matmul
    before, switch.allow_tf32 = switch.allow_tf32, True
    yield switch
    switch.allow_tf32 = before


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, TF32])
def test_float32_is_not_measured_with_the_tensor_cores_of_tf32(monkeypatch, tf32, kind):
    """Training switches them on, and the rate would then be that of another arithmetic."""
    found = []

    def best(product, seconds, sides):
        found.append(tf32.allow_tf32)
        return product(sides[0])

    monkeypatch.setattr(ledger_module, "_best_rate", best)
    gemm_rate(torch.device("cpu"), kind)
    assert found == [kind == TF32]
    assert tf32.allow_tf32


def test_training_is_compared_with_the_rate_of_its_own_arithmetic(tf32):
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert [arithmetic(None, device) for device in (cpu, gpu)] == [torch.float32, TF32]
    assert arithmetic(torch.bfloat16, gpu) is torch.bfloat16
    tf32.allow_tf32 = False
    assert arithmetic(None, gpu) is torch.float32


@pytest.mark.parametrize("flops", [3e14, 1e15])
def test_on_a_large_gpu_the_product_fills_it_and_keeps_its_second(flops):
    """The launches that are timed together count too: 20 of each product."""
    took = []

    def product(side):
        took.append(2 * side**3 / flops)
        return took[-1]

    assert ledger_module._best_rate(product, 1.0 / 20, GEMM_SIDES["cuda"]) == pytest.approx(flops)
    assert took[-1] == 2 * 8192**3 / flops
    assert 20 * sum(took) < 1.5


def test_a_measurement_leaves_torchs_random_numbers_as_they_were():
    before = torch.get_rng_state()
    gemm_rate(torch.device("cpu"), torch.float32, seconds=0.01)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_signal_ends_a_measurement_between_two_products():
    def interrupt(number, frame):
        raise KeyboardInterrupt

    def again_and_again():
        while True:
            gemm_rate(torch.device("cpu"), torch.float16)

    before = signal.signal(signal.SIGVTALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.2)
        began = time.process_time()
        with pytest.raises(KeyboardInterrupt):
            again_and_again()
        assert time.process_time() - began < 1.2
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def trained(path, monkeypatch, rates, *, pause=0.0, **changes):
    """What a tiny run said, and its summary, on a machine with these rates one after another."""
    found = iter(rates)

    def rate(device, dtype):
        time.sleep(pause)
        return next(found)

    text = io.StringIO()
    display = Display(Console(file=text, width=300))
    with monkeypatch.context() as patches:  # undone before the patches of `tiny` below it are
        patches.setattr(ledger_module, "gemm_rate", rate)
        fasttrain.train(tiny_runs.small(**changes), out=path, display=display)
    return text.getvalue(), json.loads((path / "summary.json").read_text())


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [(1e11, 1e11, False), (1e11, 0.9e11, False), (1e11, 4e10, True), (4e10, 1e11, True)],
)
def test_a_rate_that_changed_while_training_is_said(
    tmp_path, monkeypatch, tiny, before, after, said
):
    text, summary = trained(tmp_path / "a", monkeypatch, [before, after], amp="off")
    assert ("the rate of matrix products in float32 differs" in text) == said
    assert (
        f"{before / 1e9:,.0f} GFLOP/s before training, {after / 1e9:,.0f} after" in text
    ) == said
    assert (summary["gemm_rate_before"], summary["gemm_rate_after"]) == (before, after)
    used = summary["images_per_second"] / max(before, after)  # of one operation an image
    assert summary["mfu"] == pytest.approx(used, rel=1e-6)


def test_the_rates_before_and_after_are_those_of_the_target_too_and_cost_it_no_time(
    tmp_path, monkeypatch, tiny
):
    changes = {"target_accuracy": 0.01, "amp": "bf16"}
    text, summary = trained(
        tmp_path / "a", monkeypatch, [1e11, 1e11, 5e10, 5e10], pause=0.2, **changes
    )
    assert text.count("the rate of matrix products in ") == 2
    assert summary["fp32_gemm_rate"] == 1e11
    assert summary["seconds_to_target"] < summary["total_seconds"] - 0.8  # four pauses


def test_parts_add_up_to_the_whole_over_two_sessions(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(ledger_module, "perf_counter", lambda: now[0])
    ledger = Ledger(99.0)
    with ledger.part("data"):
        now[0] += 5
    now[0] += 2
    state = ledger.state_dict()
    assert ledger.parts["data"] == 5
    assert ledger.total == sum(ledger.split().values()) == 8
    now[0] = 300.0  # another process has another clock
    second = Ledger(now[0])
    second.load_state_dict(state)
    with second.part("eval"):
        now[0] += 3
    assert (second.parts["data"], second.parts["eval"]) == (5, 3)
    assert second.total == sum(second.split().values()) == 8 + 3


def test_the_summary_weighs_speed_by_time_and_names_the_best_epoch():
    rows = [
        {"epoch": 1, "test_accuracy": 0.5, "seconds": 10.0, "images_per_second": 100.0},
        {"epoch": 2, "test_accuracy": 0.7, "seconds": 5.0, "images_per_second": 200.0},
        {"epoch": 3, "test_accuracy": 0.6, "seconds": 5.0, "images_per_second": 200.0},
    ]
    rows = [{**row, "data_wait_seconds": 0.5} for row in rows]
    model = ResNet18()
    found = summarise(rows, model, gemm_rates=[1e11, 2e11])
    assert found["mfu"] == pytest.approx(training_flops(model) * 150 / 2e11)
    assert found["images_per_second"] == pytest.approx(3000 / 20)
    assert (found["best_epoch"], found["best_test_accuracy"]) == (2, 0.7)
    assert found["final_test_accuracy"] == 0.6
    assert found["data_wait_seconds"] == 1.5
    assert found["model_parameters"] == 11_173_962
