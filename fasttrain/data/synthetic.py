"""A synthetic data set, by default of CIFAR-10's shape: deterministic, learnable, no download.

Each class is a texture: stripes in one of several orientations, fine or coarse, with random
colours, phase and contrast over noise. Only edges reveal the class: neither the mean colour nor a
single pixel does.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from . import Split

CHUNK = 1000  # images of 32x32 drawn together, so that the first n do not depend on the count
SIDE = 32  # pixels, as in CIFAR-10
WAVELENGTHS = (4.0, 9.0)  # pixels, at 32 along an image


def load(
    train: int = 50_000, test: int = 10_000, *, seed: int = 0, side: int = 32, classes: int = 10
) -> tuple[Split, Split]:
    """`train` and `test` images of `side` x `side` pixels; the first n do not depend on the counts.

    Labels are 0 to `classes` - 1, about equally often.
    """
    make = partial(_split, seed=seed, side=side, classes=classes)
    return make(train, half=0), make(test, half=1)


def names(classes: int) -> tuple[str, ...]:
    """Names of so many classes, in the order of their letters."""
    digits = len(str(classes - 1))
    return tuple(f"texture {number:0{digits}}" for number in range(classes))


def _split(count: int, *, seed: int, half: int, side: int, classes: int) -> Split:
    images = np.empty((count, side, side, 3), np.uint8)
    labels = np.empty(count, np.int64)
    # As many pixels as in CHUNK images of 32x32, at most: 25 MB of floats and their copies.
    size = max(1, CHUNK * 32**2 // max(side, 32) ** 2)
    for number, start in enumerate(range(0, count, size)):
        random = np.random.default_rng([seed, half, number])
        drawn, kinds = _chunk(random, start, size, side=side, classes=classes)
        images[start : start + size] = drawn[: count - start]
        labels[start : start + size] = kinds[: count - start]
    return Split(images, labels)


def _chunk(
    random: np.random.Generator, start: int, size: int, *, side: int, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return `size` images and their classes; `start` is the number of the first one."""
    orientations = -(-classes // len(WAVELENGTHS))
    labels = random.permutation((start + np.arange(size)) % classes)
    turned = labels % orientations + random.normal(0, 0.12, size)
    angle = np.pi / orientations * turned
    wavelength = np.take(WAVELENGTHS, labels // orientations) * random.uniform(0.85, 1.15, size)
    y, x = np.mgrid[:side, :side].astype(np.float32) / np.float32(side / 32)
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    phase = random.uniform(0, 2 * np.pi, (size, 1, 1))
    wave = np.sin(2 * np.pi / wavelength[:, None, None] * along + phase).astype(np.float32)
    contrast = random.uniform(0.3, 0.9, (size, 1, 1, 3)).astype(np.float32)
    base = random.uniform(70, 185, (size, 1, 1, 3)).astype(np.float32)
    noise = random.normal(0, 22, (size, side, side, 3)).astype(np.float32)
    pixels = base + 60 * contrast * wave[..., None] + noise
    return np.clip(pixels, 0, 255).astype(np.uint8), labels.astype(np.int64)
