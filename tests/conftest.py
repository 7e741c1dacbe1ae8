"""Fixtures: a tiny synthetic set, a tiny network with a Step over it, one thread."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial

import pytest
import torch
from torch import nn

from fasttrain.data import synthetic
from fasttrain.engine.step import Step
from fasttrain.loaders import draws
from fasttrain.loaders.resident import ResidentLoader
from fasttrain.optim.sgd import sgd

# albumentations asks its maker's server for a newer version at import, unless told not to.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
# Without a GPU the kernels run in Triton's interpreter, to be asked for before triton's import.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# Who starts pytest in the background or under nohup hands on ignored signals, which the runs under
# test would then ignore as well.
for ignored in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.SIG_DFL)

if sys.platform == "win32":  # they name signals and limits that Windows does not have
    collect_ignore_glob = [
        f"*test_{name}.py" for name in ("disk", "distributed", "kills", "signals", "stopping")
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What is for the soak is slow, too: `-m "not slow"` replaces the `not soak` of pyproject."""
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # Tiny networks only lose by a second one: 4,000 images/s with one thread, 260 with two, where
    # other programs ran on both cores.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_splits():
    """512 training and 128 test images of the synthetic set."""
    return synthetic.load(512, 128)


def tiny_model(seed: int = 0, classes: int = 10) -> nn.Module:
    """A network with every kind of state that ResNet18 has, and a hundredth of its work."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, classes),
    ).to(memory_format=torch.channels_last)


def tiny_step(*, seed: int = 0, lr: float = 0.05, momentum: float = 0.9, **options) -> Step:
    """A Step over `tiny_model`."""
    model = tiny_model(seed)
    return Step(model, sgd(model, lr=lr, momentum=momentum, weight_decay=5e-4), **options)


def tiny_loader(split, *, batch_size: int = 32, training: bool = True, seed: int = 0):
    """A ResidentLoader with the mission's augmentation, or an evaluation's."""
    count = len(split.labels)
    still = draws.in_order(count)
    return ResidentLoader(
        split,
        partial(draws.draw, seed=seed, count=count) if training else lambda epoch: still,
        batch_size=batch_size,
        device=torch.device("cpu"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        hole=8 if training else 0,
        drop_last=training,
    )


@pytest.fixture
def tiny():
    """Whole runs take a tenth of a second: see tiny_runs.py."""
    import tiny_runs

    with tiny_runs.shrunk():
        yield
