"""A synthetic data set of CIFAR-10's shape: deterministic, learnable, without a download.

Each class is a texture: stripes in one of five orientations, fine or coarse, with random colours,
phase and contrast over noise. Only edges reveal the class: neither the mean colour nor a single
pixel does.
"""

from __future__ import annotations

import numpy as np

from . import Split

SIDE = 32  # pixels, as in CIFAR-10
CHUNK = 1000  # images drawn together, so that the first images do not depend on the count
ORIENTATIONS = 5
WAVELENGTHS = (4.0, 9.0)  # pixels


def load(
    train: int = 50_000, test: int = 10_000, *, seed: int = 0, side: int = SIDE
) -> tuple[Split, Split]:
    """Return `train` and `test` images of `side` pixels; the first n are always the same."""
    return _split(train, seed=seed, half=0, side=side), _split(test, seed=seed, half=1, side=side)


def _split(count: int, *, seed: int, half: int, side: int) -> Split:
    images = np.empty((count, side, side, 3), np.uint8)
    labels = np.empty(count, np.int64)
    for number, start in enumerate(range(0, count, CHUNK)):
        drawn, classes = _chunk(np.random.default_rng([seed, half, number]), side)
        images[start : start + CHUNK] = drawn[: count - start]
        labels[start : start + CHUNK] = classes[: count - start]
    return Split(images, labels)


def _chunk(random: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw CHUNK images and their labels, as many of each class."""
    labels = random.permutation(np.arange(CHUNK) % 10)
    angle = np.pi / ORIENTATIONS * (labels % ORIENTATIONS + random.normal(0, 0.12, CHUNK))
    wavelength = np.take(WAVELENGTHS, labels // ORIENTATIONS) * random.uniform(0.85, 1.15, CHUNK)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    phase = random.uniform(0, 2 * np.pi, (CHUNK, 1, 1))
    wave = np.sin(2 * np.pi / wavelength[:, None, None] * along + phase).astype(np.float32)
    contrast = random.uniform(0.3, 0.9, (CHUNK, 1, 1, 3)).astype(np.float32)
    base = random.uniform(70, 185, (CHUNK, 1, 1, 3)).astype(np.float32)
    noise = random.normal(0, 22, (CHUNK, side, side, 3)).astype(np.float32)
    pixels = base + 60 * contrast * wave[..., None] + noise
    return np.clip(pixels, 0, 255).astype(np.uint8), labels.astype(np.int64)
