"""Builds the graph of DALI's operators that makes the pixels of a draw.

It is separate from the loader, which feeds the graph and reads its images.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ..errors import EnvironmentProblem
from .feed import Feed

NDIM = {"images": 3, "top": 0, "left": 0, "flip": 0, "affine": 2, "colour": 2, "hole": 1}


def pipeline(
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
    fields: tuple[str, ...],
) -> Any:
    """Build the graph of crop and flip, or of matrices -> normalise -> erase.

    It takes the arrays `fields` (see feed.names_of), of `size` images per run.
    """
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline
    from nvidia.dali.types import DALIDataType as types

    made = Pipeline(batch_size=size, num_threads=threads, device_id=_device_id(device))
    with made:
        sources = fn.external_source(
            source=feed,
            num_outputs=len(fields),
            batch=True,
            layout=["HWC"],
            dtype=[
                {"images": types.UINT8, "flip": types.INT32}.get(f, types.FLOAT) for f in fields
            ],
            ndim=[NDIM[field] for field in fields],
        )
        of = dict(zip(fields, sources, strict=True))
        images = of["images"].gpu() if device.type == "cuda" else of["images"]
        normalise = partial(
            fn.crop_mirror_normalize,
            crop=[side, side],
            mean=[255 * value for value in mean],
            std=[255 * value for value in std],
            output_layout="HWC",
            # fn.erase knows no float16 on a GPU.
            dtype=types.FLOAT16 if half and not hole else types.FLOAT,
        )
        if "affine" in of:
            images = normalise(_warped(images, of["affine"], of.get("colour"), side))
        else:
            top, left, flip = (of[name] for name in ("top", "left", "flip"))
            images = normalise(images, crop_pos_y=top, crop_pos_x=left, mirror=flip)
        if hole:
            images = fn.erase(images, anchor=of["hole"], shape=[float(hole)] * 2, axis_names="HW")
            images = fn.cast(images, dtype=types.FLOAT16) if half else images
        made.set_outputs(images)
    try:
        made.build()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise EnvironmentProblem(
            f"DALI ({device}): {reason}. Check the driver and that the DALI package is for its "
            "CUDA version, or use --loader resident."
        ) from error
    return made


def _warped(images: Any, affine: Any, colour: Any | None, side: int) -> Any:
    """The part of the graph that samples at an affine matrix and applies a colour matrix."""
    from nvidia.dali import fn, math, types

    images = fn.warp_affine(
        images,
        matrix=affine,  # from the place shown to that in the image
        size=[side, side],
        interp_type=types.DALIInterpType.INTERP_LINEAR,
        fill_value=0.0,
        dtype=types.DALIDataType.FLOAT,
    )
    if colour is not None:
        images = math.clamp(fn.coord_transform(images, MT=colour), 0.0, 255.0)
        images = fn.reshape(images, layout="HWC")  # which the operators before have dropped
    return images


def _device_id(device: torch.device) -> int | None:
    """DALI's number of the device; None is the CPU, and needs no driver."""
    if device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index
