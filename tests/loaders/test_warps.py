"""Matrices are drawn uniformly, by generators of their own, and mean what hand arithmetic says."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from fasttrain.data import Split
from fasttrain.loaders import build, draws, warps
from fasttrain.loaders.draws import Draw, WarpedDraw, draw, shard
from fasttrain.recipe.recipe import RECIPES, Recipe

COUNT, SIDE = 4000, 32
PLAIN = partial(draw, seed=4, count=COUNT)
ALL = {"rotate": 30.0, "zoom": (0.8, 1.5), "brightness": 0.4, "contrast": 0.3, "saturation": 0.2}
OFF = {"rotate": 0.0, "zoom": (1.0, 1.0), "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


def warped(epoch: int = 1, plain=PLAIN, seed: int = 4, **changes) -> WarpedDraw:
    return warps.warp(plain, epoch, seed=seed, side=SIDE, **{**ALL, **changes})


def one(side: int, **changed) -> np.ndarray:
    """The affine matrix of one image, turned by nothing unless it is `changed`."""
    fields = {"crop": (0, 0), "flip": False, "angle": 0.0, "zoom": 1.0, **changed}
    arrays = {name: np.array([value]) for name, value in fields.items()}
    return warps.affine(arrays.pop("crop"), arrays.pop("flip"), side=side, **arrays)[0]


def uneven(values: np.ndarray, low: float, high: float) -> float:
    """Kolmogorov's distance to the uniform distribution, times the root of the count."""
    ranks = np.arange(len(values)) / len(values)
    return float(np.abs((np.sort(values) - low) / (high - low) - ranks).max() * len(values) ** 0.5)


def test_angles_zooms_and_strengths_are_uniform_in_their_ranges():
    still = partial(draw, seed=4, count=COUNT, flip=0.0, pad=0)
    drawn = warped(plain=still)
    cos, sin = drawn.affine[:, 0, 0], drawn.affine[:, 1, 0]
    angle, zoom = np.rad2deg(np.arctan2(sin, cos)), 1 / np.hypot(sin, cos)
    both = warped(plain=still, saturation=0.0).colour
    contrast = 1 - both[:, 0, 3] / warps.MIDDLE
    brightness = both[:, 0, 0] / contrast
    mixed = warped(plain=still, brightness=0.0, contrast=0.0).colour
    saturation = mixed[:, 0, 0] - mixed[:, 1, 0]
    ranges = {
        (-30, 30): angle,
        (0.8, 1.5): zoom,
        (0.6, 1.4): brightness,
        (0.7, 1.3): contrast,
        (0.8, 1.2): saturation,
    }
    for (low, high), values in ranges.items():
        assert uneven(values, low, high) < 1.95  # exceeded once in a thousand times
        assert uneven(values, low, high + (high - low) / 10) > 1.95  # the control
    together = np.corrcoef([angle, zoom, brightness, contrast, saturation, drawn.order])
    assert np.abs(together - np.eye(6)).max() < 4.5 / COUNT**0.5


def test_a_warp_leaves_order_crops_flips_and_holes_as_they_were_drawn():
    plain, drawn = PLAIN(3), warped(3)
    assert np.array_equal(drawn.order, plain.order)
    assert np.array_equal(drawn.hole, plain.hole)
    zeros = np.zeros(COUNT)
    expected = warps.affine(plain.crop, plain.flip, side=SIDE, angle=zeros, zoom=zeros + 1)
    assert np.array_equal(warped(3, **OFF).affine, expected)
    assert warped(3, **OFF).colour is None


@pytest.mark.parametrize("name", OFF)
def test_turning_one_of_them_off_leaves_the_others_as_they_were(name):
    whole, without = warped(), warped(**{name: OFF[name]})
    moved = not np.array_equal(whole.affine, without.affine)
    recoloured = not np.array_equal(whole.colour, without.colour)
    assert (moved, recoloured) == ((True, False) if name in ("rotate", "zoom") else (False, True))


def test_a_draw_is_a_pure_function_of_seed_and_epoch():
    for first, other in zip(warped(2), warped(2), strict=True):
        assert np.array_equal(first, other)
    for other in (warped(3), warped(2, seed=5)):
        assert (warped(2).affine[:, 0, 0] != other.affine[:, 0, 0]).mean() > 0.9
        assert (warped(2).colour[:, 0, 0] != other.colour[:, 0, 0]).mean() > 0.9


def test_the_generators_of_an_epoch_keep_their_places():
    """The first five are those of release 0.1; a new one goes behind the last."""
    names = ("order", "crop", "flip", "hole", "chance", "angle", "zoom")
    assert draws.STREAMS[:10] == (*names, "brightness", "contrast", "saturation")
    ten = np.random.SeedSequence([4, 1]).spawn(10)
    for name, seed in zip(draws.STREAMS, ten, strict=False):
        first = np.random.Generator(np.random.PCG64(seed)).random()
        assert draws.streams(4, 1)[name].random() == first


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shards_show_together_at_every_step_what_one_process_would(world):
    whole, batch = warped(), 12 * world
    shards = [shard(whole, rank, world, batch) for rank in range(world)]
    steps = COUNT // batch
    for name in whole._fields:
        parts = [getattr(each, name).reshape(steps, 12, -1) for each in shards]
        alone = getattr(whole, name)[: steps * batch].reshape(steps, batch, -1)
        assert np.array_equal(np.concatenate(parts, axis=1), alone)
    assert shard(warped(**OFF), 0, world, batch).colour is None


# --- matrices by hand -----------------------------------------------------------------------------


def test_an_image_left_alone_has_the_identity_as_its_matrix():
    assert one(7).tolist() == [[1, 0, 0], [0, 1, 0]]


def test_crop_and_flip_are_part_of_the_matrix():
    assert one(32, crop=(3, -2)).tolist() == [[1, 0, -2], [0, 1, 3]]
    assert one(32, flip=True).tolist() == [[-1, 0, 31], [0, 1, 0]]
    # As a Draw means it: the window first, then its mirror image.
    assert one(32, crop=(3, -2), flip=True).tolist() == [[-1, 0, 29], [0, 1, 3]]


def test_a_quarter_turn_takes_rows_for_columns():
    np.testing.assert_allclose(one(4, angle=90.0), [[0, -1, 3], [1, 0, 0]], atol=1e-6)
    # The crop is of the turned image: one pixel to the right there is one up in the image.
    turned = one(4, angle=90.0, crop=(0, 1))
    np.testing.assert_allclose(turned, [[0, -1, 3], [1, 0, 1]], atol=1e-6)


def test_a_zoom_of_2_shows_the_middle_half():
    assert one(8, zoom=2.0).tolist() == [[0.5, 0, 1.75], [0, 0.5, 1.75]]
    assert one(8, zoom=0.5).tolist() == [[2, 0, -3.5], [0, 2, -3.5]]


@pytest.mark.parametrize(
    ("changed", "outside"),
    [
        ({}, 0),
        ({"crop": (3, -5)}, 5),
        ({"zoom": 0.5}, 4),  # 3.5
        ({"zoom": 2.0}, 0),
        ({"angle": 45.0}, 2),  # 3.5 sqrt(2) - 3.5 = 1.45
    ],
)
def test_how_far_outside_a_matrix_reaches(changed, outside):
    assert warps.reach(one(8, **changed)[None], 8) == outside


def strengths(**factors) -> np.ndarray:
    given = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, **factors}
    return warps.colour(**{name: np.array([value]) for name, value in given.items()})[0]


def test_colour_matrices_are_those_of_the_formulas():
    identity = np.eye(3, 4)
    np.testing.assert_allclose(strengths(), identity, atol=1e-6)
    np.testing.assert_allclose(strengths(brightness=1.5), 1.5 * identity, atol=1e-6)
    np.testing.assert_allclose(
        strengths(contrast=0.5) @ [127.5, 255, 0, 1], [127.5, 191.25, 63.75], rtol=1e-6
    )
    grey = 0.299 * 10 + 0.587 * 20 + 0.114 * 30
    np.testing.assert_allclose(strengths(saturation=0.0) @ [10, 20, 30, 1], [grey] * 3, rtol=1e-6)
    np.testing.assert_allclose(
        strengths(saturation=2.0) @ [10, 20, 30, 1], 2 * np.array([10, 20, 30]) - grey, rtol=1e-6
    )


def test_they_follow_each_other_as_brightness_contrast_saturation():
    pixel, grey = np.array([200.0, 40.0, 90.0]), np.array(warps.GREY)
    pixel = 1.3 * pixel
    pixel = 0.6 * (pixel - 127.5) + 127.5
    pixel = 0.4 * pixel + 0.6 * (grey @ pixel)
    made = strengths(brightness=1.3, contrast=0.6, saturation=0.4) @ [200, 40, 90, 1]
    np.testing.assert_allclose(made, pixel, rtol=1e-6)


# --- what a recipe asks for -----------------------------------------------------------------------

SPLIT = Split(np.zeros((50, SIDE, SIDE, 3), np.uint8), np.arange(50) % 10)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "reference"])
def test_with_all_of_them_off_an_epoch_is_drawn_by_the_same_function_as_before(name):
    drawing = build.training_draws(Recipe(recipe=name, zoom="1,1"), SPLIT)
    assert drawing.func is draws.draw
    assert type(drawing(1)) is Draw


@pytest.mark.parametrize(
    "fields",
    [
        {"rotate": 7.0},
        {"zoom": "0.8,1.2"},
        {"brightness": 0.1},
        {"contrast": 0.1},
        {"saturation": 0.1},
        {"recipe": "reference"},
        {"rotate": 7.0, "balance": "sample"},
    ],
    ids=str,
)
def test_one_of_them_is_enough_for_a_matrix_of_each_image(fields):
    recipe = Recipe(**fields)
    drawn = build.training_draws(recipe, SPLIT)(2)
    assert type(drawn) is WarpedDraw
    given = {name: getattr(recipe, name) for name in OFF}
    assert (drawn.colour is not None) == any(list(given.values())[2:])
    plain = build.training_draws(replace(recipe, **{**OFF, "zoom": "1,1"}), SPLIT)
    assert type(plain(2)) is Draw
    zoom = (0.8, 1.2) if "zoom" in fields else (1.0, 1.0)
    expected = warps.warp(plain, 2, seed=0, side=SIDE, **{**given, "zoom": zoom})
    for ours, theirs in zip(drawn, expected, strict=True):
        assert np.array_equal(ours, theirs)
