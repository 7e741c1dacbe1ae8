"""Whole runs in a tenth of a second: the real training code with a network of 3,000 parameters.

Only the network's size differs, and the report is not drawn, which takes matplotlib two seconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import fasttrain
from fasttrain.data import synthetic
from fasttrain.models import build as models_build
from fasttrain.recipe.recipe import Recipe
from fasttrain.run import finish, ledger, start
from fasttrain.storage import atomic, checkpoint

SMALL: dict[str, Any] = {
    "dataset": "synthetic",
    "train_limit": 48,
    "test_limit": 32,
    "batch_size": 16,
    "device": "cpu",
    "loader": "resident",
    "tune": "off",
    "epochs": 2,
    "lr": 0.05,
}


class TinyNet(nn.Module):
    """A network with ResNet18's names: convolutions, BatchNorm, four stages, and dropout."""

    stages = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, classes: int = 10, side: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=4, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        for number in range(1, 5):
            self.add_module(f"layer{number}", nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)))
        self.drop = nn.Dropout(0.1)  # makes results depend on torch's random generator
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for number in range(1, 5):
            x = torch.relu(self.get_submodule(f"layer{number}")(x)) + x
        return self.fc(self.drop(x.mean(dim=(2, 3))))


class Patches:
    """Replaces pytest's monkeypatch in a process that ends anyway."""

    setattr = staticmethod(setattr)


def shrink(patches: Any, *, report: bool = False, network: type[nn.Module] = TinyNet) -> None:
    """Make runs tiny, with pytest's monkeypatch or another object with `setattr`."""
    patches.setattr(models_build, "ResNet18", network)
    patches.setattr(ledger, "gemm_rate", lambda device, dtype, seconds=1.0: 1e11)
    patches.setattr(ledger, "training_flops", lambda model, shape: 1)
    patches.setattr(synthetic, "load", images)
    patches.setattr(start.environment, "describe", dict)
    if not report:
        patches.setattr(finish, "explain_run", short_report)
        patches.setattr(finish, "draw_end", lambda *args, **options: None)


def never_sync(patches: Any) -> None:
    """Make no file wait for the disk: an fsync took 9 ms, and no test can cut the power.

    Which files are synced, and when, is seen by the tests that count and break the calls; processes
    that are not forked from `warm` sync as ever.
    """

    def fsync(handle: int) -> None:
        os.fstat(handle)  # an error for what is not open, as of the real one

    patches.setattr(os, "fsync", fsync)
    patches.setattr(atomic, "_fsync", fsync)


@contextmanager
def shrunk(network: type[nn.Module] = TinyNet) -> Iterator[None]:
    """Make runs tiny, on one thread, within the block: a second thread would slow them down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patches:
            shrink(patches, network=network)
            yield
    finally:
        torch.set_num_threads(threads)


images = lru_cache(synthetic.load)


def short_report(run: Path, **options: Any) -> None:
    """Replace the report: load best.pt and write a page."""
    checkpoint.load(run / "checkpoints" / "best.pt")
    atomic.write_atomically(run / "report.html", b"<title>short</title><p>Drawn by fasttrain</p>")


def small(**changes: Any) -> Recipe:
    return Recipe(**{**SMALL, **changes})


def train(path: Path, **changes: Any) -> None:
    """Start or resume a run, as the command line does with --resume."""
    there = (path / "recipe.json").exists()
    if there:
        fasttrain.train(small(**changes), continued=path)
    else:
        fasttrain.train(small(**changes), out=path)


def end(path: Path) -> dict[str, Any]:
    """Return what must be equal at a run's end, bit for bit: all but times (see `same`)."""
    state = checkpoint.load(path / "checkpoints" / "last.pt")
    best = checkpoint.load(path / "checkpoints" / "best.pt")
    lines = (path / "metrics.jsonl").read_text().splitlines()
    summary = json.loads((path / "summary.json").read_text())
    return {
        "state": [state[key] for key in ("progress", "step", "schedule", "rng")],
        "sums": state["run"]["sums"],
        "best": [best["progress"], best["model"], best["test_accuracy"]],
        "rows": [list(json.loads(line).values())[:6] for line in lines],
        "summary": [summary[key] for key in ("epochs", "best_epoch", "finished")],
    }


def same(a: object, b: object) -> bool:
    """Return whether two results of `end` are equal bit for bit, names and types included."""
    left, right = tree_leaves(a), tree_leaves(b)
    alike = torch.utils._pytree.tree_structure(a) == torch.utils._pytree.tree_structure(b)
    return alike and all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y
        for x, y in zip(left, right, strict=True)
    )
