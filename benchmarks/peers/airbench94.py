"""airbench's `train94`, the peer of the sprint, on the same CIFAR-10 and without a download.

It wants its images in files of its own, in a folder `cifar10` of the current one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from fasttrain.data import CLASSES, cifar10

EVALUATED = 2000  # images a batch of its test loader


class Airbench:
    """train94 after its warm-up, with the training images on the GPU; needs CUDA and airbench."""

    def __init__(self, folder: Path, cache_dir: Path | None = None) -> None:
        import airbench

        self.airbench, self.folder = airbench, folder
        (folder / "cifar10").mkdir(parents=True, exist_ok=True)
        halves = cifar10.load(folder=cifar10.where(cache_dir))
        for name, split in zip(("train", "test"), halves, strict=True):
            images, labels = (torch.from_numpy(np.array(array)) for array in split)
            found = {"images": images, "labels": labels, "classes": list(CLASSES)}
            torch.save(found, folder / "cifar10" / f"{name}.pt")
        aug = {"flip": True, "translate": 2}  # train94's own
        with _inside(folder):
            airbench.warmup94()
            self.train = airbench.CifarLoader(
                "cifar10", train=True, batch_size=1024, aug=aug, altflip=True
            )
            self.test = airbench.CifarLoader("cifar10", train=False, batch_size=EVALUATED)

    def run(self) -> dict[str, Any]:
        """Train once: its seconds, which include reading its test images, and its accuracies."""
        with _inside(self.folder):
            began = perf_counter()
            model = self.airbench.train94(self.train, verbose=False)
            torch.cuda.synchronize()
            seconds = perf_counter() - began
        plain, whole = (self.airbench.evaluate(model, self.test, level) for level in (0, 2))
        return {"train_seconds": seconds, "test_accuracy": plain, "test_accuracy_with_all": whole}


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
