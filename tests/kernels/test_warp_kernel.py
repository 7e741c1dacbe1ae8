"""The warping kernel gives what its reference in plain torch gives, in one launch a chunk."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from fasttrain.loaders import warps
from fasttrain.loaders.draws import WarpedDraw, draw

kernel = pytest.importorskip("kernels.warp", reason="triton has wheels for Linux only")

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []  # else in the interpreter
COUNT = 9
BYTES = {"mean": (125.3, 123.0, 113.9), "std": (63.0, 62.1, 66.7)}


def warped(side: int, **changes) -> WarpedDraw:
    plain = partial(draw, seed=5, count=COUNT, side=side, pad=side // 8, hole=side // 4)
    changes = {"rotate": 60.0, "zoom": (0.5, 2.0), "contrast": 0.5, **changes}
    return warps.warp(plain, 1, seed=5, side=side, **changes)


def shown(op, drawn: WarpedDraw, side: int, *, dtype=torch.float32, reflect=False) -> Tensor:
    """What `op` writes into a buffer of nan, for images of noise."""
    noise = np.random.default_rng(side).integers(0, 256, (COUNT, side, side, 3), dtype=np.uint8)
    images, *fields = (
        None if array is None else torch.from_numpy(array).to(DEVICE) for array in (noise, *drawn)
    )
    out = torch.full((COUNT, side, side, 3), torch.nan, dtype=dtype, device=DEVICE)
    op(out, images, *fields, **BYTES, side=side // 4, reflect=reflect)
    return out.float().cpu()


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("side", [1, 2, 31, 32])
def test_the_kernel_gives_what_its_reference_gives(side, reflect):
    for drawn in (warped(side), warped(side, contrast=0.0), warped(side, zoom=(0.2, 0.2))):
        ours, theirs = (
            shown(op, drawn, side, reflect=reflect) for op in (kernel.warp_, kernel._ref)
        )
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)  # 0.001 of a level


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_too(dtype):
    ours, theirs = (shown(op, warped(9), 9, dtype=dtype) for op in (kernel.warp_, kernel._ref))
    # Triton's interpreter cuts bfloat16 off where the hardware, and torch, round.
    torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=1e-4)


@pytest.mark.parametrize("field", ["order", "affine", "colour", "hole"])
def test_one_wrong_number_in_one_image_is_noticed(field):
    drawn = warped(16)
    wrong = getattr(drawn, field).copy()
    wrong[4] = (wrong[4] + 1) % COUNT if field == "order" else wrong[4] - 1
    ours = shown(kernel.warp_, drawn, 16)
    theirs = shown(kernel._ref, drawn._replace(**{field: wrong}), 16)
    differs = ((ours - theirs).abs() > 1e-3).flatten(1).any(1)
    assert differs.nonzero().flatten().tolist() == [4]


@pytest.mark.parametrize("side", [1, 23, 33])
def test_nothing_is_written_beyond_the_last_image_whatever_the_side(side):
    drawn = warped(side)._replace(order=np.zeros(1, np.int64))
    fields = [torch.from_numpy(array[:1]).to(DEVICE) for array in drawn]
    images = torch.full((1, side, side, 3), 9, dtype=torch.uint8, device=DEVICE)
    numbers = torch.full((3 * side**2 + 4096,), torch.nan, device=DEVICE)
    out, beyond = numbers[: 3 * side**2].view(1, side, side, 3), numbers[3 * side**2 :]
    kernel.warp_(out, images, *fields, **BYTES, side=0)
    assert out.isfinite().all()
    assert beyond.isnan().all()
