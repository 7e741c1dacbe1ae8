"""Draws are uniform, inside the image, independent of each other and a pure function."""

from __future__ import annotations

import numpy as np
import pytest

from fasttrain.loaders.draws import (
    SIDE,
    class_shares,
    class_weights,
    draw,
    in_order,
    part,
    shard,
)

COUNT = 20_000


def chi_square(cells: np.ndarray, kinds: int) -> float:
    """Sum over kinds of (seen - expected)^2 / expected."""
    expected = len(cells) / kinds
    return float(((np.bincount(cells, minlength=kinds) - expected) ** 2 / expected).sum())


def limit(kinds: int) -> float:
    """The chi-square that even cells exceed once in a thousand times (Wilson and Hilferty)."""
    freedom = kinds - 1
    return freedom * (1 - 2 / (9 * freedom) + 3.09 * np.sqrt(2 / (9 * freedom))) ** 3


def crop_cells(crop: np.ndarray, pad: int = 4) -> np.ndarray:
    width = 2 * pad + 1
    return (crop[:, 0] + pad) * width + crop[:, 1] + pad


def test_the_limit_is_that_of_a_chi_square_table():
    assert limit(81) == pytest.approx(124.8, abs=0.2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_crops_are_uniform_over_all_81_offsets(seed):
    crop = draw(1, seed=seed, count=COUNT).crop
    assert crop.min() == -4
    assert crop.max() == 4
    assert chi_square(crop_cells(crop), 81) < limit(81)


def test_rounded_uniform_positions_would_not_pass_for_uniform_crops():
    uniform = np.random.default_rng(0).random((COUNT, 2))
    crop = np.rint(uniform * 8).astype(int) - 4  # offsets -4 and 4 come half as often
    assert chi_square(crop_cells(crop), 81) > 10 * limit(81)


@pytest.mark.parametrize("side", [8, 16])
def test_holes_are_uniform_over_every_place_wholly_inside_the_image(side):
    hole = draw(1, seed=0, count=COUNT, hole=side).hole
    places = SIDE - side + 1
    assert hole.min(axis=0).tolist() == [0, 0]
    assert hole.max(axis=0).tolist() == [SIDE - side, SIDE - side]  # flush with the border
    assert chi_square(hole[:, 0] * places + hole[:, 1], places**2) < limit(places**2)


def test_a_hole_as_large_as_the_image_lies_at_its_corner():
    assert not draw(1, seed=0, count=100, hole=SIDE).hole.any()


def test_half_of_the_images_flip_and_half_get_a_hole():
    half = draw(1, seed=0, count=COUNT, flip=0.5, hole_probability=0.5)
    within = 4 * 0.5 / np.sqrt(COUNT)
    assert half.flip.mean() == pytest.approx(0.5, abs=within)
    without = (half.hole == SIDE).all(axis=1)
    assert without.mean() == pytest.approx(0.5, abs=within)
    assert (half.hole[~without] <= SIDE - 8).all()


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_probabilities_0_and_1_are_never_and_always(probability, share):
    sure = draw(1, seed=0, count=COUNT, flip=probability, hole_probability=probability)
    assert sure.flip.mean() == share
    assert (sure.hole < SIDE).mean() == share


def test_alternating_flips_show_every_image_from_both_sides_in_turn():
    first, second, third = (draw(e, seed=0, count=COUNT, alternate=True) for e in (1, 2, 3))
    sides = [drawn.flip[np.argsort(drawn.order)] for drawn in (first, second, third)]
    assert (sides[0] != sides[1]).all()
    assert (sides[0] == sides[2]).all()
    assert sides[0].mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(COUNT))
    usual = [draw(e, seed=0, count=COUNT) for e in (1, 2)]
    control = [drawn.flip[np.argsort(drawn.order)] for drawn in usual]
    assert 0.4 < (control[0] != control[1]).mean() < 0.6


def test_alternating_leaves_order_crops_and_holes_as_they_were():
    one, other = draw(2, seed=0, count=500), draw(2, seed=0, count=500, alternate=True)
    for name in ("order", "crop", "hole"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_fields_are_independent_of_each_other():
    drawn = draw(1, seed=0, count=COUNT, hole_probability=0.5)
    columns = np.column_stack(
        [drawn.order, drawn.crop, drawn.flip, drawn.hole[:, 0] == SIDE, np.arange(COUNT)]
    )
    correlations = np.corrcoef(columns.T.astype(float)) - np.eye(columns.shape[1])
    assert np.abs(correlations).max() < 4.5 / np.sqrt(COUNT)


def test_the_order_is_a_permutation():
    assert sorted(draw(3, seed=1, count=1000).order) == list(range(1000))


def test_the_same_arguments_give_the_same_arrays():
    for one, other in zip(draw(7, seed=3, count=500), draw(7, seed=3, count=500), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("epoch", "seed"), [(2, 0), (1, 1), (0, 1)])
def test_another_epoch_or_seed_gives_other_arrays(epoch, seed):
    pairs = zip(draw(1, seed=0, count=500), draw(epoch, seed=seed, count=500), strict=True)
    for one, other in pairs:
        assert (one == other).mean() < 0.75


@pytest.mark.parametrize(
    "off", [{"flip": 0.0}, {"pad": 0}, {"hole": 0}, {"hole_probability": 0.0}], ids=str
)
def test_turning_one_augmentation_off_leaves_the_others_as_they_were(off):
    touched = {"flip": "flip", "pad": "crop", "hole": "hole", "hole_probability": "hole"}
    changed = touched[next(iter(off))]
    whole, without = draw(1, seed=0, count=500), draw(1, seed=0, count=500, **off)
    for name in whole._fields:
        same = np.array_equal(getattr(whole, name), getattr(without, name))
        assert same == (name != changed), name


def test_what_is_off_does_nothing():
    still = draw(1, seed=0, count=500, pad=0, flip=0.0, hole=0)
    assert not still.crop.any()
    assert not still.flip.any()
    assert (still.hole == SIDE).all()


@pytest.mark.parametrize("drawn", [draw(1, seed=0, count=9), in_order(9)], ids=["draw", "in_order"])
def test_arrays_have_the_shapes_and_types_that_loaders_rely_on(drawn):
    seen = [(field.shape, field.dtype.name) for field in drawn]
    assert seen == [((9,), "int64"), ((9, 2), "int32"), ((9,), "bool"), ((9, 2), "int32")]


def test_in_order_shows_every_image_once_and_untouched():
    still = in_order(5)
    assert still.order.tolist() == [0, 1, 2, 3, 4]
    assert not still.crop.any()
    assert not still.flip.any()
    assert (still.hole == SIDE).all()


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("part_size", [1, 7, 16])
@pytest.mark.parametrize("count", [200, 1001])
def test_shards_show_together_at_every_step_what_one_process_would(world, part_size, count):
    batch = world * part_size
    whole = draw(3, seed=5, count=count)
    shards = [shard(whole, rank, world, batch) for rank in range(world)]
    steps = count // batch
    assert {len(each.order) for each in shards} == {steps * part_size}
    for name in whole._fields:
        parts = [getattr(each, name).reshape(steps, part_size, -1) for each in shards]
        together = np.concatenate(parts, axis=1)
        alone = getattr(whole, name)[: steps * batch].reshape(steps, batch, -1)
        np.testing.assert_array_equal(together, alone)
        assert getattr(shards[0], name).dtype == getattr(whole, name).dtype
    assert len(np.unique(np.concatenate([each.order for each in shards]))) == steps * batch


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [7, 100, 1001])
def test_parts_of_an_evaluation_show_every_image_once(world, count):
    parts = [part(in_order(count), rank, world).order for rank in range(world)]
    assert np.concatenate(parts).tolist() == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("counts", "weights"),
    [
        # counts^-0.5 over the mean of all images
        ((4, 1), (5 / 6, 5 / 3)),  # 1/2 and 1; (4 / 2 + 1) / 5 = 3/5
        ((9, 0, 1), (5 / 6, 0, 5 / 2)),  # 1/3 and 1; (9 / 3 + 1) / 10 = 2/5
        ((16, 4, 1), (3 / 4, 3 / 2, 3)),  # 1/4, 1/2, 1; (4 + 2 + 1) / 21 = 1/3
        ((5, 5, 5), (1, 1, 1)),
        ((7,), (1,)),
    ],
)
def test_weights_of_classes_are_frequency_to_minus_a_half_with_mean_1(counts, weights):
    labels = np.repeat(np.arange(len(counts)), counts)
    np.testing.assert_allclose(class_weights(labels, len(counts)), weights)
    shares = class_shares(labels)
    np.testing.assert_allclose(shares, np.asarray(weights)[labels])
    assert shares.mean() == pytest.approx(1)


def test_shares_show_an_image_as_often_as_they_say_but_for_less_than_one_time():
    labels = np.repeat([0, 1, 2], [160, 40, 10])
    shares = class_shares(labels)  # 3/4, 3/2 and 3
    seen = np.zeros(210)
    for epoch in range(1, 101):
        order = draw(epoch, seed=1, count=210, shares=shares).order
        times = np.bincount(order, minlength=210)
        assert (np.abs(times - shares) < 1).all()
        assert len(order) == 210
        assert (np.abs(np.bincount(labels[order]) - [120, 60, 30]) <= 1).all()
        seen += times
    np.testing.assert_allclose(seen / 100, shares, atol=0.25)
    assert (np.bincount(labels, seen) / 100).tolist() == pytest.approx([120, 60, 30], abs=1)


def test_a_sampled_order_is_a_pure_function_and_leaves_the_other_fields_alone():
    shares = class_shares(np.repeat([0, 1], [90, 10]))
    one, again, plain = (
        draw(4, seed=2, count=100, shares=each) for each in (shares, shares.copy(), None)
    )
    for name in one._fields:
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
        same = np.array_equal(getattr(one, name), getattr(plain, name))
        assert same == (name != "order"), name
    other = draw(5, seed=2, count=100, shares=shares).order
    assert (one.order != other).mean() > 0.9
    assert abs(np.corrcoef(one.order, np.arange(100))[0, 1]) < 0.4  # not sorted by class


def test_equal_shares_show_every_image_once():
    order = draw(1, seed=0, count=1000, shares=np.full(1000, 0.1)).order
    assert sorted(order) == list(range(1000))
