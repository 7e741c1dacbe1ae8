"""Shared parts of the benchmarks: synthetic images, the device, the environment of each result.

Every result carries its hardware and versions, since a speed means little without them.
"""

from __future__ import annotations

import importlib.util
from statistics import median

import numpy as np
import torch

from fasttrain.data import Split
from fasttrain.machine import environment
from fasttrain.machine.allocator import keep_pages

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    keep_pages()  # as training does; the peers, in this process and its workers, gain from it too


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Add the hardware and the versions to the file that `make bench` writes."""
    output_json["environment"] = environment.describe()


def pixels(count: int, side: int = 32) -> Split:
    """`count` images of noise: their content does not change the speed."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return Split(images, generator.integers(0, 10, count))


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A normalised batch, channels_last, on the device."""
    images = torch.randn(size, 3, 32, 32, device=DEVICE)
    labels = torch.randint(0, 10, (size,), device=DEVICE)
    return images.to(memory_format=torch.channels_last), labels


def installed(*packages: str) -> bool:
    """Whether all of the packages can be imported; a peer that cannot is left out."""
    return all(importlib.util.find_spec(name) for name in packages)


def wait() -> None:
    """Wait until the device is done, so that a timing includes the work and not only its launch."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def compared(
    seconds: dict[str, list[float]], *, images: int, peer: str = "source"
) -> dict[str, dict[str, float]]:
    """Rates of providers that took turns over `images` each, and their ratios to `peer`."""
    slow = median(seconds[peer])
    return {
        name: {
            "n": len(times),
            "images_per_second": images / median(times),
            "best_images_per_second": images / min(times),
            f"times_{peer}": slow / median(times),
        }
        for name, times in seconds.items()
    }
