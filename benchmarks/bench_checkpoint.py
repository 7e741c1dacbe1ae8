"""Seconds to save a ResNet18, with 11.2 million weights and as many momenta.

`loop` is what the training loop waits for: a copy on the host, or on a GPU the launch of a copy
there. `save` also includes what a thread then does: a GPU's copy to the host, serialising, the
digest, the disk. At its end an epoch may also save the weights alone as best.pt.
"""

from __future__ import annotations

import pytest

from benchmarks.conftest import DEVICE, batch, wait
from fasttrain.engine.build import schedule
from fasttrain.engine.state import Run
from fasttrain.engine.step import Step
from fasttrain.models.resnet import ResNet18
from fasttrain.optim.sgd import sgd
from fasttrain.recipe.recipe import Recipe
from fasttrain.run import resume
from fasttrain.storage import checkpoint
from fasttrain.storage.host_copy import HostCopies


@pytest.mark.parametrize("provider", ["loop", "save"])
def test_a_save(benchmark, provider, tmp_path):
    recipe, model = Recipe(lr=0.05), ResNet18().to(DEVICE).train()
    step = Step(model, sgd(model, lr=0.05, momentum=0.9, weight_decay=5e-4))
    step(*batch(8))  # creates the momenta
    falls = schedule(recipe, step, steps=1)

    copies = HostCopies()

    def save():
        copied = copies.begin(resume.capture(Run(), step, falls, recipe))
        if provider == "save":
            checkpoint.save(tmp_path / "last.pt", copied())

    benchmark.group = f"save of ResNet18, {DEVICE.type}"
    benchmark.pedantic(save, setup=wait, rounds=20, warmup_rounds=2)
    state = copies.begin(resume.capture(Run(), step, falls, recipe))()
    benchmark.extra_info["bytes"] = checkpoint.save(tmp_path / "last.pt", state)
