"""Seconds from data in memory to a target accuracy; on a GPU compared with airbench's `train94`.

On a CPU only the first level runs, which takes minutes; `--runs` and `benchmarks.sprints` measure
the others with several seeds. On a GPU every level and the peer run, on the same CIFAR-10.
"""

from __future__ import annotations

import pytest

from benchmarks.conftest import DEVICE
from benchmarks.peers.airbench94 import Airbench
from fasttrain.cli import repeat
from fasttrain.recipe.recipe import LEVELS, make

TARGETS = [target for target, _ in LEVELS] if DEVICE.type == "cuda" else [LEVELS[0][0]]
RUNS = 20 if DEVICE.type == "cuda" else 1


@pytest.mark.parametrize("target", TARGETS)
def test_a_sprint(benchmark, tmp_path, target):
    recipe = make({"recipe": "sprint", "target_accuracy": target})
    benchmark.group = f"sprint to {target:.2%}, {DEVICE.type}"
    found = benchmark.pedantic(
        repeat.train_runs, args=(recipe, RUNS), kwargs={"out": tmp_path / "runs"}, rounds=1
    )
    benchmark.extra_info["provider"] = "fasttrain"
    benchmark.extra_info |= {key: value for key, value in found.items() if key != "command"}


@pytest.mark.skipif(DEVICE.type != "cuda", reason="airbench needs CUDA")
def test_airbench(benchmark, tmp_path):
    pytest.importorskip("airbench", reason="pip install airbench, the peer of a sprint")
    peer, runs = Airbench(tmp_path), []
    benchmark.group = f"sprint to 94.00%, {DEVICE.type}"
    benchmark.pedantic(lambda: runs.append(peer.run()), rounds=RUNS)
    benchmark.extra_info |= {"provider": "airbench", "runs": runs}
