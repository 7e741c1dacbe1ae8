"""Images per second of the loaders alone, and their time to the first batch.

A loader only has to be faster than the model; these numbers decide what `--loader auto` chooses.
The loaders take turns, an epoch each, so that a machine that slows down slows all of them. Those
that are not installed are left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch

import kernels
from benchmarks.conftest import DEVICE, compared, installed, pixels, wait
from fasttrain.data.cifar10 import MEAN, STD
from fasttrain.loaders.build import scaled
from fasttrain.loaders.dali import DaliLoader, available
from fasttrain.loaders.draws import draw
from fasttrain.loaders.resident import ResidentLoader
from fasttrain.loaders.triton import KernelLoader

BATCH, ROUNDS = 128, 7
ON_GPU = DEVICE.type == "cuda"
EPOCH = 50_000 // BATCH * BATCH if ON_GPU else 160 * BATCH
SIDES, TURNS = (32, 64), 21
PEERS_EPOCH = 48 * BATCH  # the peer is much slower
KINDS: dict[str, Callable] = {
    **({} if available() else {"dali": DaliLoader}),
    "resident": ResidentLoader,
    # A CPU can only interpret the kernel.
    **({"kernel": KernelLoader} if ON_GPU and not kernels.problem(DEVICE) else {}),
}


def ours(kind: Callable, count: int, side: int = 32) -> Iterable:
    """A loader with the default augmentation: crop, flip, one hole of 8x8 pixels at side 32."""
    hole, pad = scaled(8, side), scaled(4, side)
    return kind(
        pixels(count, side),
        partial(draw, seed=0, count=count, side=side, pad=pad, hole=hole),
        batch_size=BATCH,
        device=DEVICE,
        mean=MEAN,
        std=STD,
        hole=hole,
        drop_last=True,
    )


class Peer(torch.utils.data.Dataset):
    """The usual dataset: albumentations, one image at a time, in the processes of a DataLoader."""

    def __init__(self, count: int) -> None:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or it asks a server for updates
        import albumentations as A
        from albumentations.pytorch import ToTensorV2

        self.split = pixels(count)
        self.chain = A.Compose(
            [
                A.PadIfNeeded(40, 40, border_mode=0, fill=0),
                A.RandomCrop(32, 32),
                A.HorizontalFlip(p=0.5),
                A.CoarseDropout((1, 1), (8, 8), (8, 8), fill=(125, 123, 114), p=1),
                A.Normalize(MEAN, STD),
                ToTensorV2(),
            ]
        )

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.chain(image=self.split.images[index])["image"], self.split.labels[index]


def albumentations(count: int) -> Iterable:
    """A DataLoader with a persistent worker for each core, up to eight."""
    return torch.utils.data.DataLoader(
        Peer(count),
        BATCH,
        shuffle=True,
        num_workers=min(8, os.cpu_count() or 1),
        drop_last=True,
        persistent_workers=True,
        pin_memory=ON_GPU,
    )


def read(batches: Iterable) -> int:
    """Read every batch of an epoch, copy it to the device, return the number of images."""
    seen = 0
    for images, labels in batches:
        images.to(DEVICE, non_blocking=True), labels.to(DEVICE, non_blocking=True)
        seen += len(labels)
    wait()
    return seen


def test_an_epoch(benchmark):
    loaders = {name: ours(kind, EPOCH) for name, kind in KINDS.items()}
    if installed("albumentations"):
        loaders["albumentations"] = albumentations(PEERS_EPOCH)
    seconds: dict[str, list[float]] = {name: [] for name in loaders}  # for EPOCH images

    def take_turns() -> None:
        for name, batches in loaders.items():
            began = time.perf_counter()
            seen = read(batches)
            seconds[name].append((time.perf_counter() - began) * EPOCH / seen)

    take_turns()
    for times in seconds.values():
        times.clear()
    benchmark.group = f"loaders, an epoch, batch {BATCH}, {DEVICE.type}"
    benchmark.pedantic(take_turns, rounds=ROUNDS)
    peer = "albumentations" if "albumentations" in loaders else "resident"
    found = compared(seconds, images=EPOCH, peer=peer)
    benchmark.extra_info["providers"] = found


def test_an_epoch_by_side(benchmark):
    """At side 64, four times the pixels: a quarter of the images per second is the limit.

    Each reads as many pixels in a turn, so that other programs interrupt them as often.
    """
    pairs = {
        (name, side): ours(kind, EPOCH * 32**2 // side**2 // BATCH * BATCH, side)
        for name, kind in KINDS.items()
        for side in SIDES
    }
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in KINDS}  # for EPOCH images

    def take_turns() -> None:
        for (name, side), batches in pairs.items():
            began = time.perf_counter()
            seen = read(batches)
            times = seconds[name].setdefault(f"side {side}", [])
            times.append((time.perf_counter() - began) * EPOCH / seen)

    take_turns()
    for name in KINDS:
        seconds[name].clear()
    benchmark.group = f"loaders by side, an epoch, batch {BATCH}, {DEVICE.type}"
    benchmark.pedantic(take_turns, rounds=TURNS)
    found = {name: compared(times, images=EPOCH, peer="side 32") for name, times in seconds.items()}
    benchmark.extra_info["providers"] = {
        f"{name}, {side}": row for name, rows in found.items() for side, row in rows.items()
    }


@pytest.mark.parametrize("provider", KINDS)
def test_the_first_batch(benchmark, provider):
    build = partial(ours, KINDS[provider], 16 * BATCH)
    benchmark.group = f"loaders, to the first batch, {DEVICE.type}"
    benchmark.pedantic(lambda: next(iter(build())), rounds=5)
    if provider == "dali":
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        python = time.perf_counter() - began
        subprocess.run([sys.executable, "-c", "import nvidia.dali"], check=True)
        benchmark.extra_info["import_seconds"] = time.perf_counter() - began - 2 * python
