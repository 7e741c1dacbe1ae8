"""Shared fixtures: a tiny data set, a tiny network with a Step, and one thread for every test."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial

import pytest
import torch
from torch import nn

from fasttrain.data.synthetic import load as load_synthetic
from fasttrain.engine.step import Step
from fasttrain.loaders import draws
from fasttrain.loaders.resident import ResidentLoader
from fasttrain.optim.sgd import sgd

# At import, albumentations asks a server for a newer version, unless this is set.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
# Without a GPU the kernels run in Triton's interpreter, which must be set before its import.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# pytest started in the background or under nohup inherits ignored signals, which the runs under
# test would then ignore as well.
for ignored in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.SIG_DFL)

if sys.platform == "win32":  # these use signals and limits that Windows does not have
    collect_ignore_glob = [
        f"*test_{name}.py" for name in ("disk", "distributed", "kills", "signals", "stopping")
    ]


def pytest_configure(config):
    """Give the workers of pytest-xdist, and the processes that their tests start, one thread each.

    OpenMP's threads wait by spinning, which takes the core of the other worker.
    """
    if config.getoption("numprocesses", 0):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark as slow what pyproject leaves out, because `-m "not slow"` replaces its `-m`; skip what
    needs a GPU where there is none."""
    for item in items:
        if item.get_closest_marker("soak") or item.get_closest_marker("trackers"):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # A second thread slows tiny networks down: 4,000 images/s with one thread, 260 with two, while
    # other programs ran on both cores.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_wait_for_the_disk():
    import tiny_runs

    with pytest.MonkeyPatch.context() as patches:
        tiny_runs.never_sync(patches)
        yield


@pytest.fixture(scope="session")
def tiny_splits():
    """Return 512 training and 128 test images of the synthetic data set."""
    return load_synthetic(512, 128)  # also where a test has made `synthetic.load` another


def tiny_model(seed: int = 0, classes: int = 10) -> nn.Module:
    """Return a network with every kind of state that ResNet18 has, at a hundredth of its cost."""
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
    """Return a Step of `tiny_model`."""
    model = tiny_model(seed)
    return Step(model, sgd(model, lr=lr, momentum=momentum, weight_decay=5e-4), **options)


def tiny_loader(split, *, batch_size: int = 32, training: bool = True, seed: int = 0):
    """Return a ResidentLoader with the default augmentation, or that of evaluation."""
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
    """Make whole runs take a tenth of a second: see tiny_runs.py."""
    import tiny_runs

    with tiny_runs.shrunk():
        yield
