"""MixUp and CutMix: their draws, the pixels and shares by hand, the loss, and every loader."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fasttrain.data import Batch
from fasttrain.engine import metrics
from fasttrain.engine.step import Step
from fasttrain.errors import UsageError
from fasttrain.loaders import build, draws, mix
from fasttrain.loaders.batches import checked
from fasttrain.loaders.dali import available
from fasttrain.loaders.mix import MixedLoader, draw_mix, mixed
from fasttrain.recipe.recipe import Recipe
from tests.conftest import tiny_loader, tiny_model, tiny_step

BOTH = {"mixup": 0.4, "cutmix": 1.0}
COUNT, SIDE = 64, 32
SIZES = {"batch_size": 32, "classes": 10}


def drawn(epoch=1, count=COUNT, **options):
    return draw_mix(epoch, seed=3, count=count, side=SIDE, **(options or BOTH))


def given(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return Batch(images.to(memory_format=torch.channels_last), labels)


def tensors(of, stop=None):
    return [torch.from_numpy(field[:stop]) for field in of]


def test_an_epochs_mixing_is_a_function_of_seed_and_epoch():
    assert all(map(np.array_equal, drawn(2), drawn(2)))
    assert not any(map(np.array_equal, drawn(2), drawn(3)))
    assert [field.dtype for field in drawn()] == [np.float32, np.float32, np.int32]


def test_the_other_draws_of_an_epoch_stay_what_they_are():
    """Children of a SeedSequence are numbered: the first ten are those of before."""
    before = np.random.SeedSequence([3, 2]).spawn(10)
    for name, seed in zip(draws.STREAMS, before, strict=False):
        old = np.random.Generator(np.random.PCG64(seed)).random(5)
        assert np.array_equal(draws.streams(3, 2)[name].random(5), old)


def test_mixup_alone_takes_its_share_of_every_pixel():
    own, inside, box = drawn(count=20_000, mixup=0.4)
    assert np.array_equal(own, inside)
    assert (box == [0, 0, SIDE, SIDE]).all()
    assert own.mean() == pytest.approx(0.5, abs=0.01)
    assert own.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.005)  # of Beta(0.4, 0.4)


def timms_box(share, centre):
    """rand_bbox and the correction of its share, as in timm.data.mixup, for one image."""
    ratio = np.sqrt(1 - share)
    height = width = int(SIDE * ratio)
    (y, x), clip = centre, lambda value: int(np.clip(value, 0, SIDE))
    top, bottom = clip(y - height // 2), clip(y + height // 2)
    left, right = clip(x - width // 2), clip(x + width // 2)
    area = (bottom - top) * (right - left)
    return 1.0 - area / float(SIDE * SIDE), [top, left, bottom, right]


def test_cutmix_is_timms_box_and_its_share_that_of_the_box_inside_the_image():
    own, inside, box = drawn(cutmix=1.0)
    of = draws.streams(3, 1)
    shares = of["cutmix"].beta(1.0, 1.0, COUNT)
    centres = of["box"].integers(0, SIDE, size=(COUNT, 2), dtype=np.int32)
    for place in range(COUNT):
        expected, corners = timms_box(shares[place], centres[place])
        assert box[place].tolist() == corners
        assert own[place] == pytest.approx(expected, abs=1e-6)
    assert not inside.any()
    assert abs(own - shares).max() > 0.1, "the control: some boxes are cut off at the edge"


def test_with_both_a_coin_gives_each_image_one_of_the_two():
    own, inside, _ = drawn(count=2_000)
    is_cut = (inside == 0) & (own > 0)
    assert is_cut.mean() == pytest.approx(0.5, abs=0.05)
    assert np.array_equal(own[~is_cut], drawn(count=2_000, mixup=0.4).own[~is_cut])
    assert np.array_equal(own[is_cut], drawn(count=2_000, cutmix=1.0).own[is_cut])


def test_pixels_and_shares_are_those_of_arithmetic_by_hand():
    batch, of = given(7), drawn(count=7)
    found = mixed(*batch, *tensors(of), classes=10)
    assert found.images.is_contiguous(memory_format=torch.channels_last)
    for place in range(7):
        other = min(place ^ 1, 6)
        top, left, bottom, right = of.box[place]
        expected = batch.images[place].clone()
        share, own = float(of.inside[place]), float(of.own[place])
        inside = slice(None), slice(top, bottom), slice(left, right)
        expected[inside] = share * expected[inside] + (1 - share) * batch.images[other][inside]
        torch.testing.assert_close(found.images[place], expected)
        shares = torch.zeros(10)
        shares[batch.labels[place]] += own
        shares[batch.labels[other]] += 1 - own
        torch.testing.assert_close(found.labels[place], shares)
    assert torch.equal(found.images[6], batch.images[6]), "the last of an odd batch has no partner"


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_both_labels_by_their_shares(smoothing, weighted):
    """With label smoothing once, not of each of the two."""
    weights = torch.linspace(0.5, 1.5, 10) if weighted else None
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    step = Step(model, optimizer, label_smoothing=smoothing, class_weights=weights)
    batch, of = given(8), drawn(count=8)
    images, shares = mixed(*batch, *tensors(of), classes=10)
    loss, logits = step(images, shares)
    partner = batch.labels[torch.arange(8) ^ 1]
    own = torch.from_numpy(of.own)
    of_one, of_other = (
        F.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=smoothing)
        for labels in (batch.labels, partner)
    )
    torch.testing.assert_close(loss, (own * of_one + (1 - own) * of_other).mean())


def test_training_accuracy_counts_the_class_of_the_larger_share():
    logits = torch.eye(3)
    shares = torch.tensor([[0.6, 0.4, 0.0], [0.6, 0.4, 0.0], [0.0, 0.3, 0.7]])
    sums = metrics.zeros(torch.device("cpu"))
    metrics.update(sums, torch.tensor(1.0), logits, shares)
    assert (sums[metrics.CORRECT], sums[metrics.IMAGES]) == (2, 3)


def test_no_mixing_reads_a_value_on_the_host():
    batch = Batch(*(part.to("meta") for part in given()))
    found = mixed(*batch, *(field.to("meta") for field in tensors(drawn(count=6))), classes=10)
    assert found.labels.shape == (6, 10)


def loaders_of(name, split, **options):
    recipe = Recipe(batch_size=16, device="cpu", amp="off", seed=3, **options)
    scale = build.Statistics((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    device = torch.device("cpu")
    how = {"training": True, "scale": scale}
    return lambda classes: build.loader(name, recipe, device, split, **how, classes=classes)


def test_every_loader_mixes_the_same_and_off_is_the_loader_itself(tiny_splits):
    split = tiny_splits[0]
    make = loaders_of("resident", split, **BOTH)
    resident = list(make(10))
    for number, (alone, together) in enumerate(zip(make(None), resident, strict=True)):
        rows = slice(16 * number, 16 * (number + 1))
        of = [field[rows] for field in tensors(drawn(count=len(split.labels)))]
        expected = mixed(*alone, *of, classes=10)
        assert torch.equal(together.images, expected.images)
        assert torch.equal(together.labels, expected.labels)
        assert not torch.equal(together.images, alone.images)
    assert not isinstance(loaders_of("resident", split)(10), MixedLoader)
    if available():
        pytest.skip(f"DALI: {available()}")
    for one, other in zip(resident, loaders_of("dali", split, **BOTH)(10), strict=True):
        torch.testing.assert_close(one.images, other.images, atol=1e-6, rtol=0)
        assert torch.equal(one.labels, other.labels)


def test_it_goes_on_at_any_step(tiny_splits):
    make = loaders_of("resident", tiny_splits[0], **BOTH)
    whole, sought = make(10), make(10)
    first, second = list(whole), list(whole)
    sought.seek(2, 3)
    for one, other in zip(second[3:], sought, strict=True):
        assert all(map(torch.equal, one, other))
    assert not torch.equal(first[3].images, second[3].images)
    assert all(map(torch.equal, first[0], next(iter(make(10))))), "after seek the next epoch"


@pytest.mark.parametrize("world", [2, 4])
def test_processes_mix_their_parts_of_a_batch_as_one_process_mixes_the_whole(world):
    of, size = drawn(count=70), 16
    batch = given(size)
    whole = mixed(*batch, *tensors(of, size), classes=10)  # the first of four batches
    parts = []
    for rank in range(world):
        mine = mix.shard(of, rank, world, size)
        assert len(mine.own) == 64 // world
        rows = slice(rank * size // world, (rank + 1) * size // world)
        part = Batch(batch.images[rows], batch.labels[rows])
        parts.append(mixed(*part, *tensors(mine, size // world), classes=10))
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)


def test_a_loader_of_ones_own_can_be_mixed_too(tiny_splits):
    alone = tiny_loader(tiny_splits[0])
    images, shares = next(iter(MixedLoader(alone, drawn, **SIZES)))
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(len(images)))


def test_only_a_loader_that_says_so_may_give_shares(tiny_splits):
    step, made = tiny_step(), MixedLoader(tiny_loader(tiny_splits[0]), drawn, **SIZES)
    assert next(checked(made, step, "training")).labels.shape == (32, 10)
    images, shares = next(iter(MixedLoader(tiny_loader(tiny_splits[0]), drawn, **SIZES)))
    for wrong in (Labelled([(images, shares)], 9), [(images, shares)]):
        with pytest.raises(UsageError, match=r"labels of the first batch \(float32 \(32, 10\)"):
            next(checked(wrong, step, "training"))


class Labelled(list):
    """Batches whose labels are said to be shares of so many classes."""

    def __init__(self, batches, classes):
        super().__init__(batches)
        self.mixed_classes = classes
