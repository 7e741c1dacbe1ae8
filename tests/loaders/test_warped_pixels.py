"""Every loader shows what the matrices say: by hand, alike within a level, and as albumentations.

A level is 1 of 0..255. The loaders interpolate by the same rule and differ by rounding alone.
"""

from __future__ import annotations

import re
from functools import partial
from importlib import metadata

import numpy as np
import pytest
import torch

from fasttrain.data import Split
from fasttrain.errors import UsageError
from fasttrain.loaders import build, feed, pipeline, resample, warps
from fasttrain.loaders.dali import DaliLoader, available
from fasttrain.loaders.draws import Draw, WarpedDraw, draw, in_order
from fasttrain.loaders.resident import ResidentLoader
from fasttrain.loaders.triton import KernelLoader
from fasttrain.recipe.recipe import Recipe

BYTES = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}  # pixels come out as they are
ROUNDING = 0.1  # of a level; measured: 0.002 and, where a wide border is mirrored, 0.07
COUNT = 6


@pytest.fixture(params=[ResidentLoader, KernelLoader, DaliLoader])
def kind(request):
    if request.param is DaliLoader and available():
        pytest.skip(f"DALI: {available()}")
    return request.param


def noise(side: int, count: int = COUNT) -> Split:
    random = np.random.default_rng(side)
    return Split(random.integers(0, 256, (count, side, side, 3), np.uint8), np.arange(count))


def epoch_of(kind, split: Split, draws, **options) -> np.ndarray:
    """The pixels of the next epoch, (N, S, S, 3)."""
    options = {"batch_size": 3, "device": "cpu", "hole": 0, **BYTES, **options}
    batches = list(kind(split, draws, drop_last=False, **options))
    assert all(b.images.is_contiguous(memory_format=torch.channels_last) for b in batches)
    return torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1).numpy()


def warped(side: int, count: int = COUNT, *, hole: int = 0, **changes):
    plain = partial(draw, seed=2, count=count, side=side, pad=side // 8, hole=hole)
    return partial(warps.warp, plain, seed=2, side=side, **changes)


def alike(count: int, *, side: int, **changed) -> WarpedDraw:
    """Every image in order, each with the same crop, flip, angle, zoom and colours."""
    still = in_order(count, side)
    place = {"angle": 0.0, "zoom": 1.0}
    place |= {name: changed.pop(name) for name in place if name in changed}
    crop = np.broadcast_to(changed.pop("crop", (0, 0)), (count, 2))
    flip = np.broadcast_to(changed.pop("flip", False), count)
    at = {name: np.full(count, value) for name, value in place.items()}
    ones = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, **changed}
    factors = {name: np.full(count, value) for name, value in ones.items()}
    return WarpedDraw(
        order=still.order,
        affine=warps.affine(crop, flip, side=side, **at),
        colour=warps.colour(**factors) if changed else None,
        hole=still.hole,
    )


# --- by hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 4, 9, 32])
@pytest.mark.parametrize(("angle", "turns"), [(90.0, 1), (-90.0, -1), (180.0, 2)])
def test_a_quarter_turn_is_numpys(kind, side, angle, turns):
    split = noise(side)
    shown = epoch_of(kind, split, lambda epoch: alike(COUNT, side=side, angle=angle))
    expected = np.rot90(split.images, turns, axes=(1, 2))
    np.testing.assert_allclose(shown, expected, atol=ROUNDING)


def test_after_a_quarter_turn_comes_the_crop_and_then_the_flip(kind):
    split = noise(16)
    drawn = alike(COUNT, side=16, angle=90.0, crop=(2, -3), flip=True)
    shown = epoch_of(kind, split, lambda epoch: drawn)
    padded = np.pad(np.rot90(split.images, axes=(1, 2)), ((0, 0), (3, 3), (3, 3), (0, 0)))
    expected = padded[:, 3 + 2 : 3 + 18, 0:16][:, :, ::-1]
    np.testing.assert_allclose(shown, expected, atol=ROUNDING)


def test_a_zoom_of_2_puts_three_quarters_and_a_quarter_of_two_pixels_between_them(kind):
    split = noise(8)
    shown = epoch_of(kind, split, lambda epoch: alike(COUNT, side=8, zoom=2.0))
    rows = split.images.astype(float)
    for axis in (1, 2):
        near = rows.take([2, 2, 3, 3, 4, 4, 5, 5], axis)  # 1.75 2.25 2.75 ... from the centres
        far = rows.take([1, 3, 2, 4, 3, 5, 4, 6], axis)
        rows = 0.75 * near + 0.25 * far
    np.testing.assert_allclose(shown, rows, atol=ROUNDING)


def test_zoomed_out_by_2_an_image_has_a_border_black_or_mirrored_at_its_edge(kind):
    split = noise(8)
    drawn = alike(COUNT, side=8, zoom=0.5)
    wide = ((0, 0), (8, 8), (8, 8), (0, 0))
    for reflect, mode in ((False, "constant"), (True, "reflect")):
        shown = epoch_of(kind, split, lambda epoch: drawn, reflect=reflect)
        padded = np.pad(split.images.astype(float), wide, mode)[:, 4:20, 4:20]
        expected = padded.reshape(COUNT, 8, 2, 8, 2, 3).mean(axis=(2, 4))
        np.testing.assert_allclose(shown, expected, atol=ROUNDING)


def test_colours_by_hand(kind):
    split = Split(np.full((COUNT, 8, 8, 3), (200, 100, 60), np.uint8), np.arange(COUNT))
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 60
    cases = [
        ({"brightness": 1.2}, (240, 120, 72)),
        ({"brightness": 1.5}, (255, 150, 90)),  # cut off
        ({"brightness": 0.0}, (0, 0, 0)),
        ({"contrast": 0.5}, (163.75, 113.75, 93.75)),
        ({"contrast": 2.0}, (255, 72.5, 0)),
        ({"contrast": 0.0}, (127.5, 127.5, 127.5)),
        ({"saturation": 0.0}, (grey, grey, grey)),
        ({"saturation": 0.5}, ((200 + grey) / 2, (100 + grey) / 2, (60 + grey) / 2)),
    ]
    for factors, expected in cases:
        shown = epoch_of(kind, split, lambda epoch, f=factors: alike(COUNT, side=8, **f))
        np.testing.assert_allclose(shown, np.broadcast_to(expected, shown.shape), atol=ROUNDING)


def test_matrices_that_do_nothing_show_the_pixels_of_the_draw_without_them(kind):
    split, plain = noise(32), partial(draw, seed=2, count=COUNT, hole=8, hole_probability=0.5)
    still = partial(warps.warp, plain, seed=2, side=32)
    for reflect in (False, True):
        options = {"hole": 8, "reflect": reflect}
        shown, before = (epoch_of(kind, split, draws, **options) for draws in (still, plain))
        np.testing.assert_allclose(shown, before, atol=0.01)


def test_the_hole_is_cut_out_of_the_turned_image_and_is_0_after_normalising(kind):
    split, mean = noise(16), {"mean": (0.5, 0.5, 0.5)}
    drawn = alike(COUNT, side=16, angle=30.0, brightness=0.5)
    holes = drawn._replace(hole=np.tile(np.int32([3, 5]), (COUNT, 1)))
    whole, cut = (epoch_of(kind, split, lambda e, d=d: d, hole=4, **mean) for d in (drawn, holes))
    assert (cut[:, 3:7, 5:9] == 0).all()
    assert (whole[:, 3:7, 5:9] != 0).mean() > 0.9
    whole[:, 3:7, 5:9] = 0
    assert np.array_equal(cut, whole)


# --- all loaders alike ----------------------------------------------------------------------------

MANY = [
    {"rotate": 7.0},
    {"rotate": 180.0, "zoom": (0.2, 5.0)},
    {"brightness": 0.5, "contrast": 0.5, "saturation": 1.0},
    {"rotate": 30.0, "zoom": (0.8, 1.2), "brightness": 0.2, "contrast": 0.3, "saturation": 0.4},
]


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("changes", MANY, ids=str)
@pytest.mark.parametrize("side", [2, 33])
def test_all_loaders_show_the_same_within_a_tenth_of_a_level(side, changes, reflect):
    split, draws = noise(side), warped(side, hole=side // 4, **changes)
    options = {"hole": side // 4, "reflect": reflect, "chunk": 3}
    resident = epoch_of(ResidentLoader, split, draws, **options)
    kinds = [KernelLoader] if available() else [KernelLoader, DaliLoader]
    for other in kinds:
        shown = epoch_of(other, split, draws, **options)
        np.testing.assert_allclose(shown, resident, atol=ROUNDING, rtol=0)


def test_one_wrong_number_in_one_matrix_is_noticed(kind):
    split, drawn = noise(16), warped(16, rotate=20.0, contrast=0.2)(1)
    right = epoch_of(ResidentLoader, split, lambda epoch: drawn)
    for name in ("order", "affine", "colour"):
        wrong = getattr(drawn, name).copy()
        wrong[3] += 1 if name == "order" and wrong[3] + 1 < COUNT else -1
        shown = epoch_of(kind, split, lambda epoch, n=name, w=wrong: drawn._replace(**{n: w}))
        differs = np.abs(shown - right).max(axis=(1, 2, 3)) > 1
        assert differs.nonzero()[0].tolist() == [3], name


def test_half_precision_is_the_float32_result_rounded(kind):
    split, draws = noise(16), warped(16, hole=4, rotate=20.0, contrast=0.2)
    for hole in (0, 4):
        whole = epoch_of(kind, split, draws, hole=hole)
        half = epoch_of(kind, split, draws, hole=hole, dtype=torch.float16)
        np.testing.assert_allclose(half.astype(np.float32), whole, rtol=2**-10, atol=1e-6)


def test_any_step_on_is_bitwise_the_rest_of_the_epoch_and_then_the_next(kind):
    split = noise(8, 24)
    make = partial(kind, split, warped(8, 24, hole=4, **MANY[3]), hole=4, drop_last=True)
    whole, later = (make(batch_size=3, device="cpu", chunk=6, **BYTES) for _ in range(2))
    whole.seek(2)
    batches = [batch.images for batch in whole]
    assert len(batches) == 8
    for step in (1, 2, 5):
        later.seek(2, step)
        rest = [batch.images for batch in later]
        assert all(map(torch.equal, rest, batches[step:]))
        assert len(rest) == 8 - step
        assert torch.equal(next(iter(later)).images, next(iter(whole)).images)
        whole.seek(3)


# --- as albumentations ----------------------------------------------------------------------------


def interpolated(cv2) -> float:
    """Levels by which cv2 may differ from a linear interpolation of 0..255.

    It rounds to bytes, half a level. Before OpenCV 5 it rounds the place to 1/32 of a pixel.
    """
    return 0.51 if int(cv2.__version__.split(".")[0]) >= 5 else 0.51 + 2 * 255 / 64


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_turned_zoomed_and_mirrored_images_are_albumentations(kind, reflect, flip):
    assert metadata.version("albumentations") == "2.0.8"  # MIT; its successor is not
    import albumentations as A
    import cv2

    split, border = noise(32, 1), cv2.BORDER_REFLECT_101 if reflect else cv2.BORDER_CONSTANT
    for angle, zoom in ((7.0, 1.0), (-37.0, 1.0), (0.0, 0.8), (20.0, 1.25), (0.0, 2.0)):
        turn = A.Affine(rotate=(angle, angle), scale=(zoom, zoom), border_mode=border, p=1)
        chain = A.Compose([turn, A.HorizontalFlip(p=float(flip))])
        theirs = chain(image=split.images[0])["image"].astype(float)
        drawn = alike(1, side=32, angle=angle, zoom=zoom, flip=flip)
        ours = epoch_of(kind, split, lambda epoch, d=drawn: d, reflect=reflect)[0]
        np.testing.assert_allclose(ours, theirs, atol=interpolated(cv2), rtol=0)
        other = alike(1, side=32, angle=angle + 1, zoom=zoom, flip=flip)  # the control
        ours = epoch_of(kind, split, lambda epoch, d=other: d, reflect=reflect)[0]
        assert np.abs(ours - theirs).max() > 10


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        *(("brightness", 0.7), ("brightness", 1.2), ("contrast", 0.7), ("contrast", 1.2)),
        *(("saturation", 0.0), ("saturation", 0.6), ("saturation", 1.3)),
    ],
)
def test_colours_are_albumentations_within_a_level_where_nothing_is_cut_off(kind, name, factor):
    """Its bytes are rounded or cut short. Its contrast turns about the image's mean grey, so it is
    compared on an image whose mean is 127.5."""
    from albumentations.augmentations.pixel import functional

    half = np.random.default_rng(0).integers(60, 196, (16, 32, 3), dtype=np.uint8)
    image = np.concatenate([half, 255 - half])
    theirs = getattr(functional, f"adjust_{name}_torchvision")(image, factor).astype(float)
    drawn = alike(1, side=32, **{name: factor})
    ours = epoch_of(kind, Split(image[None], np.zeros(1, int)), lambda epoch: drawn)[0]
    np.testing.assert_allclose(ours, theirs, atol=1.0, rtol=0)
    assert np.abs(theirs - image).max() > 5  # the control


def test_with_all_of_them_off_no_loader_comes_near_a_matrix(kind, monkeypatch):
    def never(*args, **options):
        raise AssertionError("warped")

    for place in (ResidentLoader, KernelLoader):
        monkeypatch.setattr(place, "_warped_pixels", never)
    monkeypatch.setattr(pipeline, "_warped", never)
    monkeypatch.setattr(feed.Feed, "_warped", never)
    draws = build.training_draws(Recipe(), noise(8))
    assert len(epoch_of(kind, noise(8), draws, hole=2)) == COUNT
    with pytest.raises(AssertionError, match="warped"):  # the control
        epoch_of(kind, noise(8), build.training_draws(Recipe(rotate=1.0), noise(8)), hole=2)


# --- what is refused ------------------------------------------------------------------------------

GOOD = warped(8, rotate=5.0, contrast=0.1)(1)
BAD = {
    "other numbers": (GOOD._replace(affine=GOOD.affine[:, :1]), "affine of epoch 1 (float32 (6, 1"),
    "whole numbers": (GOOD._replace(affine=GOOD.affine.astype(int)), "affine of epoch 1 (int64"),
    "not finite": (GOOD._replace(affine=GOOD.affine * np.nan), "affine of epoch 1 (float32"),
    "too far": (GOOD._replace(affine=GOOD.affine * 1e7), "must be finite numbers below a million"),
    "no colours": (GOOD._replace(colour=GOOD.colour[:3]), "colour of epoch 1 (float32 (3, 3, 4)"),
}


@pytest.mark.parametrize(("drawn", "said"), BAD.values(), ids=BAD)
def test_matrices_that_are_none_are_named_in_one_line(kind, drawn, said):
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        epoch_of(kind, noise(8), lambda epoch: drawn)
    assert "\n" not in str(caught.value)
    assert epoch_of(kind, noise(8), lambda epoch: GOOD).any()  # the control


def test_a_graph_of_dali_takes_one_kind_of_draw():
    if available():
        pytest.skip(f"DALI: {available()}")
    plain: Draw = in_order(COUNT, 8)
    for first, second in ((plain, GOOD), (GOOD, plain), (GOOD, GOOD._replace(colour=None))):
        draws = lambda epoch, a=first, b=second: a if epoch == 1 else b  # noqa: E731
        with pytest.raises(UsageError, match=r"draws \(epoch \d\): a \w+ of another form"):
            epoch_of(DaliLoader, noise(8), draws)
    draws = lambda epoch: plain if epoch == 1 else GOOD  # noqa: E731
    other = ResidentLoader(
        noise(8), draws, batch_size=3, device="cpu", hole=0, drop_last=True, **BYTES
    )
    assert len(list(other)) == len(list(other)) == 2  # the plain loaders take either


def test_a_chunk_reads_no_value_on_the_host():
    meta = {"images": torch.zeros((5, 8, 8, 3), dtype=torch.uint8), "affine": torch.zeros(5, 2, 3)}
    images = resample.warped(*(each.to("meta") for each in meta.values()), reflect=True)
    assert resample.recoloured(images, torch.zeros(5, 3, 4, device="meta")).shape == (5, 3, 8, 8)


@pytest.mark.gpu
def test_on_a_gpu_the_pixels_are_the_same_and_torch_never_waits(kind):
    split, draws = noise(32, 12), warped(32, 12, hole=8, **MANY[3])
    for reflect in (False, True):
        options = {"batch_size": 3, "hole": 8, "reflect": reflect, "drop_last": True, **BYTES}
        batches = kind(split, draws, device="cuda", **options)
        list(batches)
        batches.seek(1)
        torch.cuda.set_sync_debug_mode("error")
        try:
            epoch = list(batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        shown = torch.cat([batch.images for batch in epoch]).cpu().permute(0, 2, 3, 1).numpy()
        resident = epoch_of(ResidentLoader, split, draws, hole=8, reflect=reflect)
        np.testing.assert_allclose(shown, resident, atol=1.0, rtol=0)
