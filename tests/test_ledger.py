import time

import pytest
import torch
from torch import nn

from fasttrain.ledger import Ledger, gemm_rate, summarise, training_flops
from fasttrain.models.resnet18 import ResNet18


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


def test_the_gemm_rate_is_that_of_this_machine():
    rate = gemm_rate(torch.device("cpu"), torch.float32, tries=2)
    assert 1e9 < rate < 1e15


def test_parts_add_up_to_the_whole_over_two_sessions():
    ledger = Ledger(time.perf_counter())
    with ledger.part("data"):
        time.sleep(0.05)
    time.sleep(0.02)
    state = ledger.state_dict()
    assert sum(ledger.split().values()) == pytest.approx(ledger.total, rel=0.01)
    assert ledger.parts["data"] == pytest.approx(0.05, abs=0.03)
    second = Ledger(time.perf_counter())
    second.load_state_dict(state)
    with second.part("eval"):
        time.sleep(0.03)
    assert second.parts["data"] == state["data"]
    assert second.total == pytest.approx(state["total"] + 0.03, abs=0.03)
    assert sum(second.split().values()) == pytest.approx(second.total, rel=0.01)


def test_the_summary_weighs_speed_by_time_and_names_the_best_epoch():
    rows = [
        {"epoch": 1, "test_accuracy": 0.5, "seconds": 10.0, "images_per_second": 100.0},
        {"epoch": 2, "test_accuracy": 0.7, "seconds": 5.0, "images_per_second": 200.0},
        {"epoch": 3, "test_accuracy": 0.6, "seconds": 5.0, "images_per_second": 200.0},
    ]
    rows = [{**row, "data_wait_seconds": 0.5} for row in rows]
    model = ResNet18()
    found = summarise(rows, model, device=torch.device("cpu"), dtype=torch.float32)
    assert found["images_per_second"] == pytest.approx(3000 / 20)
    assert (found["best_epoch"], found["best_test_accuracy"]) == (2, 0.7)
    assert found["final_test_accuracy"] == 0.6
    assert found["data_wait_seconds"] == 1.5
    assert found["model_parameters"] == 11_173_962
