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
from .feed import Feed, Lane

INSTALL = "pip install nvidia-dali-cuda130 (nvidia-dali-cuda120 for CUDA 12; Linux only)"


def available() -> str | None:
    """Why DALI cannot be used here, in one line; None if it can."""
    try:
        import nvidia.dali  # noqa: F401
    except (ImportError, OSError) as error:
        return (str(error) or repr(error)).splitlines()[0]
    return None


class DaliLoader(Chunked):
    """Batches of `split`, cropped, flipped, normalised and cut out by DALI according to `draws`.

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
        build = partial(
            _pipeline,
            size=min(self._stride, self._shown),
            side=self._side,
            device=self.device,
            mean=self._mean,
            std=self._std,
            hole=self._hole,
            half=dtype == torch.float16,
            threads=threads // lanes,
        )
        feed = partial(
            Feed,
            np.ascontiguousarray(self._split.images),
            self._draws,
            self._shown,
            self._stride,
            fields=_fields(self._hole),
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


def _pipeline(
    feed: Feed,
    *,
    size: int,
    side: int,
    device: torch.device,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    hole: int,
    half: bool,
    threads: int,
) -> Any:
    """Build the graph crop, flip and normalise -> erase, for `size` images per run."""
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline
    from nvidia.dali.types import DALIDataType as types

    pipeline = Pipeline(batch_size=size, num_threads=threads, device_id=_device_id(device))
    with pipeline:
        fields = _fields(hole)
        images, top, left, flip, *corner = fn.external_source(
            source=feed,
            num_outputs=fields,
            batch=True,
            layout=["HWC"],
            dtype=[types.UINT8, types.FLOAT, types.FLOAT, types.INT32, types.FLOAT][:fields],
            ndim=[3, 0, 0, 0, 1][:fields],
        )
        images = fn.crop_mirror_normalize(
            images.gpu() if device.type == "cuda" else images,
            crop=[side, side],
            crop_pos_y=top,
            crop_pos_x=left,
            mirror=flip,
            mean=[255 * value for value in mean],
            std=[255 * value for value in std],
            output_layout="HWC",
            # fn.erase knows no float16 on a GPU.
            dtype=types.FLOAT16 if half and not hole else types.FLOAT,
        )
        if hole:
            images = fn.erase(images, anchor=corner[0], shape=[float(hole)] * 2, axis_names="HW")
            images = fn.cast(images, dtype=types.FLOAT16) if half else images
        pipeline.set_outputs(images)
    try:
        pipeline.build()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise EnvironmentProblem(
            f"DALI ({device}): {reason}. Check the driver and that the DALI package is for its "
            "CUDA version, or use --loader resident."
        ) from error
    return pipeline


def _fields(hole: int) -> int:
    """How many arrays the graph gets: without a hole, not the one of its positions."""
    return 5 if hole else 4


def _device_id(device: torch.device) -> int | None:
    """DALI's number of the device; None is the CPU, and needs no driver."""
    if device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index
