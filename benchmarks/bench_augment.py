"""GB/s of the augmentation, from bytes to a normalised batch: ours, plain torch, compiled torch.

Our kernel is kept only if it is faster than both others. An image counts as the 3,072 bytes that
must be read and the 3,072 numbers that must be written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from benchmarks.conftest import DEVICE, pixels, wait
from fasttrain.loaders.draws import draw

kernel = pytest.importorskip("kernels.augment", reason="triton has wheels for Linux only")

ON_GPU = DEVICE.type == "cuda"
IMAGES, CHUNK = (50_000, 1024) if ON_GPU else (2048, 256)
CALLS = 20 if ON_GPU else 1  # per round: on a GPU enough to hide the final wait
PROVIDERS = (["ours"] if ON_GPU else []) + ["torch", "compile"]
BYTES = {"mean": (125.3, 123.0, 113.9), "std": (63.0, 62.1, 66.7)}


def operation(provider: str) -> Callable[..., None]:
    if provider == "ours":
        return kernel.augment_
    return torch.compile(kernel._ref) if provider == "compile" else kernel._ref


def arguments(dtype: torch.dtype) -> list[Tensor]:
    """A batch to fill, resident images, and the first rows of an epoch's draw."""
    drawn = draw(1, seed=0, count=IMAGES)
    rows = [torch.from_numpy(field[:CHUNK]).to(DEVICE) for field in drawn]
    out = torch.empty((CHUNK, 32, 32, 3), dtype=dtype, device=DEVICE)
    return [out, torch.from_numpy(pixels(IMAGES).images).to(DEVICE), *rows]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_chunk(benchmark, provider, dtype):
    tensors = arguments(getattr(torch, dtype))
    fill = partial(operation(provider), *tensors, **BYTES, side=8)

    def round_() -> None:
        for _ in range(CALLS):
            fill()
        wait()

    benchmark.group = f"augment, {CHUNK:,} images to {dtype}, {DEVICE.type}"
    benchmark.pedantic(round_, rounds=30, warmup_rounds=3)
    if benchmark.stats:
        seconds = benchmark.stats.stats.median / CALLS
        moved = CHUNK * 3072 * (1 + tensors[0].element_size())
        benchmark.extra_info["gigabytes_per_second"] = moved / seconds / 1e9
        benchmark.extra_info["images_per_second"] = CHUNK / seconds
