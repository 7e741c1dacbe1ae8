"""Loads batches through an NVIDIA DALI pipeline, on the GPU or, with the same graph, on the CPU.

DALI augments in its own threads and streams while the model trains. It gets the random choices as
arrays, so its pixels equal those of the other loaders, and it can start at any step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ..data import Split
from ..errors import EnvironmentProblem
from . import contract
from .chunked import Channels, Chunk, Chunked
from .draws import Draws
from .feed import Feed, Lane, names_of
from .pipeline import pipeline

INSTALL = "pip install nvidia-dali-cuda130 (nvidia-dali-cuda120 for CUDA 12; Linux only)"


def available() -> str | None:
    """Why DALI cannot be used here, in one line; None if it can."""
    try:
        import nvidia.dali  # noqa: F401
    except (ImportError, OSError) as error:
        return (str(error) or repr(error)).splitlines()[0]
    return None


class DaliLoader(Chunked):
    """Batches of `split`, augmented, normalised and cut out by DALI according to `draws`.

    `mean` and `std` are of pixels in 0..1. `hole` is the side of the CutOut square in pixels, 0 for
    none. Outside an image pixels are black; with `reflect` they are those of the image, mirrored at
    its edge pixels. One DALI batch is about `chunk` images. `threads` are DALI's; on a CPU they are
    pipelines of one thread that take chunks in turn. DALI has no bfloat16: images are float32
    unless `dtype` is float16. Raises EnvironmentProblem if DALI is missing or cannot use the
    device, UsageError for arrays, draws or settings that contract.py refuses, and if an epoch has
    no whole batch.
    """

    def __init__(
        self,
        split: Split,
        draws: Draws,
        *,
        batch_size: int,
        device: torch.device | str,
        mean: Channels,
        std: Channels,
        hole: int,
        drop_last: bool,
        reflect: bool = False,
        dtype: torch.dtype = torch.float32,
        chunk: int | None = None,
        threads: int = 2,
    ) -> None:
        super().__init__(
            split,
            draws,
            batch_size=batch_size,
            device=device,
            mean=mean,
            std=std,
            hole=hole,
            drop_last=drop_last,
            reflect=reflect,
            dtype=dtype,
            chunk=chunk,
        )
        threads = contract.count("threads", threads, low=1, high=1024)
        problem = available()
        if problem:
            raise EnvironmentProblem(
                f"DALI (nvidia.dali): {problem}. Run {INSTALL}, or use --loader resident."
            )
        # An operator sets up its samples one after the other before its threads share the work:
        # two pipelines of one thread gave 207,000 images/s, one of two threads gave 162,000
        # (2 cores of a Xeon, chunks of 256, medians of 9, one kind after the other).
        lanes = threads if self.device.type == "cpu" else 1
        fields = names_of(self._draws(1), hole=self._hole)
        build = partial(
            pipeline,
            size=min(self._stride, self._shown),
            side=self._side,
            device=self.device,
            mean=self._mean,
            std=self._std,
            hole=self._hole,
            half=dtype == torch.float16,
            threads=threads // lanes,
            fields=fields,
        )
        feed = partial(
            Feed,
            np.ascontiguousarray(self._split.images),
            self._draws,
            self._shown,
            self._stride,
            fields=fields,
            lanes=lanes,
            reflect=self._reflect,
        )
        self._lanes = [Lane(feed(first=lane), build) for lane in range(lanes)]

    def _begin(self, epoch: int) -> Chunk:
        before = (epoch - 1) * self._lanes[0].feed.chunks
        return lambda start, stop: self._read(before + start // self._stride)

    def _read(self, chunk: int) -> Tensor:
        lane = self._lanes[chunk % len(self._lanes)]
        if self.device.type == "cuda":
            # Given the consumer's stream, DALI makes that stream wait; without it the host waits.
            stream = torch.cuda.current_stream(self.device)
            return _copied(lane.read(chunk, stream).as_tensor(), stream, self.device)
        # No copy: with DALI's default executor a buffer is not used again while it is referenced.
        return from_dlpack(lane.read(chunk, None).as_tensor())


def _copied(pixels: Any, stream: Any, device: torch.device) -> Tensor:
    """Copy DALI's tensor on torch's stream, into memory of torch.

    DALI frees a buffer that is handed over in a thread that waits for the whole device, which
    breaks the capture of a CUDA graph, and costs more than the copy: 25 MB, not measured.
    """
    from nvidia.dali.plugin.pytorch import feed_ndarray, to_torch_type  # type: ignore[attr-defined]

    made = torch.empty(pixels.shape(), dtype=to_torch_type[pixels.dtype], device=device)
    return feed_ndarray(pixels, made, cuda_stream=stream)
