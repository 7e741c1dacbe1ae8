"""Images a second of the loaders alone, and what DALI costs before its first batch.

A loader only has to outrun the model; by how much, on which machine, decides what `--loader auto`
takes. Run with `pytest benchmarks/bench_loaders.py --benchmark-enable`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import pytest
import torch

from fasttrain.data import Split
from fasttrain.data.dali import DaliLoader
from fasttrain.data.resident import ResidentLoader
from fasttrain.draws import draw

BATCH = 128
COUNT = {"dali": 160 * BATCH, "resident": 160 * BATCH, "albumentations": 48 * BATCH}  # an epoch
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def split(count: int) -> Split:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return Split(images, generator.integers(0, 10, count))


def ours(kind: type[ResidentLoader] | type[DaliLoader], count: int) -> Iterable:
    """The mission's augmentation: crop, flip, one hole of 8 pixels."""
    return kind(
        split(count),
        partial(draw, seed=0, count=count),
        batch_size=BATCH,
        device=DEVICE,
        mean=MEAN,
        std=STD,
        hole=8,
        drop_last=True,
    )


class Peer(torch.utils.data.Dataset):
    """The usual way: albumentations, one image at a time, in a DataLoader's two processes."""

    def __init__(self, count: int) -> None:
        import albumentations as A

        self.split = split(count)
        self.chain = A.Compose(
            [
                A.PadIfNeeded(40, 40, border_mode=0, fill=0),
                A.RandomCrop(32, 32),
                A.HorizontalFlip(),
                A.CoarseDropout((1, 1), (8, 8), (8, 8), fill=(125, 123, 114), p=1),
                A.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.chain(image=self.split.images[index])["image"]
        return torch.from_numpy(image).permute(2, 0, 1), self.split.labels[index]


def albumentations(count: int) -> Iterable:
    return torch.utils.data.DataLoader(
        Peer(count),
        BATCH,
        shuffle=True,
        num_workers=2,
        drop_last=True,
        persistent_workers=True,
        pin_memory=DEVICE == "cuda",
    )


BUILD: dict[str, Callable[[int], Iterable]] = {
    "dali": partial(ours, DaliLoader),
    "resident": partial(ours, ResidentLoader),
    "albumentations": albumentations,
}


def read(batches: Iterable) -> None:
    """Take every batch of an epoch, on the device when the clock stops."""
    for images, labels in batches:
        images.to(DEVICE, non_blocking=True), labels.to(DEVICE, non_blocking=True)
    if DEVICE == "cuda":
        torch.cuda.synchronize()


@pytest.mark.parametrize("provider", BUILD)
def test_an_epoch(benchmark, provider):
    batches = BUILD[provider](COUNT[provider])
    benchmark.group = f"loaders, an epoch, batch {BATCH}, {DEVICE}"
    rounds = 3 if provider == "albumentations" else 10
    benchmark.pedantic(read, args=(batches,), rounds=rounds, warmup_rounds=1)
    if benchmark.stats:
        best, median = benchmark.stats.stats.min, benchmark.stats.stats.median
        benchmark.extra_info["images_per_second"] = round(COUNT[provider] / median)
        benchmark.extra_info["best_images_per_second"] = round(COUNT[provider] / best)


@pytest.mark.parametrize("provider", ["dali", "resident"])
def test_the_first_batch(benchmark, provider):
    build = partial(ours, DaliLoader if provider == "dali" else ResidentLoader, 16 * BATCH)
    benchmark.group = f"loaders, to the first batch, {DEVICE}"
    benchmark.pedantic(lambda: next(iter(build())), rounds=5)
    if provider == "dali":
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        python = time.perf_counter() - began
        subprocess.run([sys.executable, "-c", "import nvidia.dali"], check=True)
        benchmark.extra_info["import_seconds"] = time.perf_counter() - began - 2 * python
