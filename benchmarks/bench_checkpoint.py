"""Seconds to save the mission's whole state with the commit protocol, and to load it again."""

from __future__ import annotations

import torch

from fasttrain import checkpoint, resume
from fasttrain.loop import Run
from fasttrain.models.resnet18 import ResNet18
from fasttrain.optim import sgd
from fasttrain.recipe import Recipe
from fasttrain.schedule import Plateau
from fasttrain.step import Step


def state():
    model = ResNet18()
    step = Step(model, sgd(model, lr=0.1, momentum=0.9, weight_decay=5e-4))
    schedule = Plateau(step.optimizer, patience=3, factor=0.1, threshold=0.001)
    return resume.capture(Run(), step, schedule, Recipe())


def test_saving(benchmark, tmp_path):
    folder, whole = checkpoint.Checkpoints(tmp_path), state()
    benchmark.group = "checkpoint of ResNet18 and its momentum"
    benchmark.pedantic(folder.save_last, args=(whole,), rounds=10, warmup_rounds=1)
    benchmark.extra_info["bytes"] = (tmp_path / "last.pt").stat().st_size


def test_loading(benchmark, tmp_path):
    folder = checkpoint.Checkpoints(tmp_path)
    folder.save_last(state())
    benchmark.group = "checkpoint of ResNet18 and its momentum"
    found, notes = benchmark.pedantic(folder.latest, rounds=10, warmup_rounds=1)
    assert isinstance(found["step"]["model"]["fc.weight"], torch.Tensor)
    assert not notes
