"""One tiny run in the fork server of `processes.py`, so that children find everything imported."""

import tempfile
from pathlib import Path

import tiny_runs
import torch

import fasttrain

with tempfile.TemporaryDirectory() as folder:
    torch.set_num_threads(1)
    tiny_runs.shrink(tiny_runs.Patches)
    tiny_runs.never_sync(tiny_runs.Patches)
    fasttrain.train(tiny_runs.small(), out=Path(folder) / "warm")
