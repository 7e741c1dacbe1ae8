"""Every loader takes images of any side: the same pixels, crops and holes that grow with it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from fasttrain.data import Split, Statistics, cifar10, synthetic
from fasttrain.errors import UsageError
from fasttrain.loaders import build, chunked
from fasttrain.loaders.dali import DaliLoader, available
from fasttrain.loaders.draws import draw, in_order
from fasttrain.loaders.resident import ResidentLoader
from fasttrain.loaders.triton import KernelLoader
from fasttrain.recipe.recipe import Recipe

SIDES = (28, 32, 64, 96, 224)
COUNT = 7
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CPU = torch.device("cpu")
STATISTICS = Statistics(cifar10.MEAN, cifar10.STD)


def noise(side: int, count: int = COUNT) -> Split:
    random = np.random.default_rng(side)
    return Split(random.integers(0, 256, (count, side, side, 3), np.uint8), np.arange(count))


def expected(split: Split, drawn, hole: int, mode: str) -> torch.Tensor:
    """What a Draw means, one image at a time, in float64: (N, 3, S, S)."""
    side = split.images.shape[1]
    pad = max(1, int(np.abs(drawn.crop).max()))
    padded = np.pad(split.images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode)
    shown = np.zeros((len(drawn.order), side, side, 3))
    for i, (index, (y, x), flip, (top, left)) in enumerate(zip(*drawn, strict=True)):
        window = padded[index, pad + y : pad + y + side, pad + x : pad + x + side]
        shown[i] = ((window[:, ::-1] if flip else window) / 255 - MEAN) / STD
        shown[i, top : top + hole, left : left + hole] = 0
    return torch.from_numpy(shown).float().permute(0, 3, 1, 2)


def epoch_of(kind, split: Split, draws, **options) -> torch.Tensor:
    options = {"batch_size": 3, "device": "cpu", "mean": MEAN, "std": STD, **options}
    batches = list(kind(split, draws, drop_last=False, **options))
    assert all(b.images.is_contiguous(memory_format=torch.channels_last) for b in batches)
    return torch.cat([batch.images for batch in batches])


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("side", SIDES)
def test_all_loaders_give_the_pixels_of_the_draw(side, reflect):
    count = 3 if side > 100 else COUNT  # Triton's interpreter takes a third of a second for each
    split, hole = noise(side, count), side // 4
    draws = partial(
        draw, seed=2, count=count, side=side, pad=side // 8, hole=hole, hole_probability=0.7
    )
    resident = epoch_of(ResidentLoader, split, draws, hole=hole, reflect=reflect)
    reference = expected(split, draws(1), hole, "reflect" if reflect else "constant")
    torch.testing.assert_close(resident, reference, atol=3e-6, rtol=0)
    kernel = epoch_of(KernelLoader, split, draws, hole=hole, reflect=reflect)
    assert torch.equal(kernel, resident)
    if not available():
        dali = epoch_of(DaliLoader, split, draws, hole=hole, reflect=reflect)
        torch.testing.assert_close(dali, resident, rtol=0, atol=2.4e-7)


@pytest.mark.parametrize("side", [1, 2, 7, 33])
def test_a_side_of_any_number_of_pixels_works(side):
    split = noise(side)
    draws = partial(draw, seed=0, count=COUNT, side=side, pad=min(1, side - 1), hole=side // 4)
    resident = epoch_of(ResidentLoader, split, draws, hole=side // 4)
    torch.testing.assert_close(
        resident, expected(split, draws(1), side // 4, "constant"), atol=3e-6, rtol=0
    )
    assert torch.equal(epoch_of(KernelLoader, split, draws, hole=side // 4), resident)


@pytest.mark.parametrize("side", SIDES)
def test_holes_reach_every_place_inside_the_image_and_no_hole_is_coded_by_the_side(side):
    drawn = draw(1, seed=0, count=4000, side=side, hole=side // 4, hole_probability=0.5)
    none = (drawn.hole == side).all(axis=1)
    assert 0.4 < none.mean() < 0.6
    assert drawn.hole[~none].min() == 0
    last = side - side // 4
    assert last - 2 <= drawn.hole[~none].max() <= last
    assert (in_order(3, side).hole == side).all()


@pytest.mark.parametrize(
    ("side", "pad", "hole"), [(28, 4, 7), (32, 4, 8), (64, 8, 16), (96, 12, 24), (224, 28, 56)]
)
def test_a_recipes_crop_and_hole_keep_their_share_of_the_image(side, pad, hole):
    split = noise(side, 600)
    drawn = build.training_draws(Recipe(), split)(1)
    assert np.abs(drawn.crop).max() == pad
    assert drawn.hole.max() <= side - hole
    loader = build.training_loader(Recipe(flip=0.0), split, 2, STATISTICS)
    images, _ = next(iter(loader))
    assert images.shape == (2, 3, side, side)
    assert int((images == 0).all(dim=1).sum()) >= 2 * hole * hole


@pytest.mark.parametrize("side", [1, 2, 3, 28, 224])
@pytest.mark.parametrize("fields", [{}, {"crop_padding": 16, "cutout": 32, "border": "reflect"}])
def test_no_bounds_of_a_recipe_reach_beyond_an_image_of_any_side(side, fields):
    split = noise(side)
    for images, _ in build.training_loader(Recipe(**fields), split, 2, STATISTICS):
        assert torch.isfinite(images).all()


@pytest.mark.parametrize("side", SIDES)
def test_chunks_and_test_batches_of_larger_images_are_smaller(side):
    chunk = chunked.chunk_of(side, CPU)
    assert chunk * side**2 <= 256 * 32**2 < (chunk + 1) * side**2
    most = build.evaluation_most(side, CPU)
    assert (most == 250) if side <= 32 else (most * side <= 250 * 32)
    assert chunked.chunk_of(5000, CPU) == build.evaluation_most(50_000, CPU) == 1


def test_a_stem_of_large_images_is_computed_from_fewer_of_them(monkeypatch):
    monkeypatch.setattr(build, "FEW", 8)
    assert len(build.few_images(Recipe(), noise(64, 10), STATISTICS)) == 2
    assert len(build.few_images(Recipe(), noise(32, 10), STATISTICS)) == 8
    assert len(build.few_images(Recipe(), noise(224, 10), STATISTICS)) == 1


def test_a_stem_of_own_images_is_computed_from_every_class(monkeypatch):
    """They are in the order of their classes; a published set is in random order."""
    monkeypatch.setattr(build, "FEW", 4)
    shades = np.arange(20, dtype=np.uint8)[:, None, None, None]
    split = Split(np.broadcast_to(shades, (20, 32, 32, 3)), np.zeros(20, np.int64))
    scale = Statistics((0.0,) * 3, (1.0,) * 3)
    shown = [
        (255 * build.few_images(Recipe(dataset=name), split, scale)[:, 0, 0, 0]).round().tolist()
        for name in ("photos", "cifar10")
    ]
    assert shown == [[0, 5, 10, 15], [0, 1, 2, 3]]


def test_given_statistics_normalise():
    split = noise(28)
    pixels = Statistics((0.5, 0.25, 0.0), (0.5, 1.0, 0.25))
    images, _ = next(iter(build.evaluation_loader(Recipe(), split, CPU, pixels)))
    shown = (split.images / 255 - pixels.mean) / pixels.std
    expected = torch.from_numpy(shown).float().permute(0, 3, 1, 2)
    torch.testing.assert_close(images, expected, atol=3e-6, rtol=0)


@pytest.mark.parametrize("side", [28, 64])
def test_bounds_of_holes_and_mirrored_crops_follow_the_side(side):
    split = noise(side)
    with pytest.raises(UsageError, match=rf"must be a whole number from 0 to {side}\."):
        epoch_of(ResidentLoader, split, lambda epoch: in_order(COUNT, side), hole=side + 1)
    far = in_order(COUNT, side)._replace(crop=np.full((COUNT, 2), side, np.int32))
    with pytest.raises(UsageError, match=rf"must lie inside -{side}\.\.{side}"):
        epoch_of(ResidentLoader, split, lambda epoch: far, hole=0, reflect=True)
    assert (epoch_of(ResidentLoader, split, lambda epoch: far, hole=0) < 0).all()  # all black


@pytest.mark.parametrize(("side", "classes"), [(28, 10), (64, 3), (96, 101)])
def test_synthetic_images_have_any_side_and_number_of_classes(side, classes):
    train, test = synthetic.load(250, 20, side=side, classes=classes)
    assert train.images.shape == (250, side, side, 3)
    assert len(test.labels) == 20
    few, _ = synthetic.load(3, 1, side=side, classes=classes)
    assert (few.images == train.images[:3]).all()
    counts = np.bincount(synthetic.load(2020, 1, side=8, classes=classes)[0].labels)
    assert len(counts) == classes
    assert counts.min() > 0.4 * 2020 / classes
