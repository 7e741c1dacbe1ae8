"""BatchNorm's averages start from images, and nothing else of the network changes."""

import copy

import numpy as np
import pytest
import torch
from made_images import folder
from torch import nn

import fasttrain
from fasttrain.data import Data, Split
from fasttrain.data.listing import Listing
from fasttrain.engine import build
from fasttrain.loaders.build import few_images
from fasttrain.models.averages import start_averages
from fasttrain.models.sprint import Sprint
from fasttrain.recipe.recipe import Recipe

FIELDS = {"recipe": "sprint", "widths": "4,8,8", "batch_size": 16, "device": "cpu", "amp": "off"}
NAMES = ("a", "b")
OWN = Listing.of([], [])


@pytest.fixture
def images():
    torch.manual_seed(0)
    return 3 * torch.randn(40, 3, 32, 32) + 1


def apart(model, images):
    """How far the logits of evaluation are from those of training, as a share of their size."""
    with torch.no_grad():
        evaluated, trained = model(images), copy.deepcopy(model).train()(images)
    return float((evaluated - trained).norm() / trained.norm())


def test_evaluation_then_normalises_as_the_images_themselves_do(images):
    model = Sprint((4, 8, 8)).eval()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    far = apart(model, images)
    start_averages(model, images)
    assert not model.training
    # Not 0: in training the variance is that of the batch, in evaluation its unbiased estimate.
    assert apart(model, images) < 0.01 < 0.1 < far
    for name, each in model.state_dict().items():
        if "running" in name:
            assert not torch.equal(each, before[name])
        elif "num_batches" not in name:
            assert torch.equal(each, before[name]), name


def test_the_next_batch_counts_a_tenth_and_is_the_first(images):
    norm = nn.BatchNorm2d(3)
    start_averages(norm, images)
    assert norm.momentum == 0.1
    assert norm.num_batches_tracked == 0
    start = norm.running_mean.clone()
    norm.train()(images + 10)
    torch.testing.assert_close(norm.running_mean, start + 1)
    assert norm.num_batches_tracked == 1


def averages(count, *, batch_size=16, listing=OWN, **options):
    """The first running mean of a network as it is built for `count` images."""
    random = np.random.default_rng(0)
    split = Split(
        random.integers(0, 256, (count, 16, 16, 3), np.uint8), np.arange(count, dtype=np.int64) % 2
    )
    data = Data(split, split, None, NAMES, (0.5,) * 3, (0.25,) * 3, "x", listing)
    recipe = Recipe(**{**FIELDS, "loader": "resident", "batch_size": batch_size})
    return build.build(recipe, data, **options).step.model.layer1.bn1.running_mean


def test_only_a_fresh_run_of_short_epochs_begins_so():
    assert averages(40).any()
    assert not averages(40, fresh=False).any()
    assert not averages(40, listing=None).any(), "published images begin as in release 0.1"
    assert not averages(200, batch_size=2).any(), "a hundred steps an epoch, as CIFAR-10 has"


def test_few_of_ones_own_images_are_of_every_class(tmp_path):
    folder(tmp_path / "d", ["a", "b", "c", "d"], count=5)
    split = Split(
        np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(3, 3), np.zeros(20, np.int64)
    )
    shown = {}
    for dataset in (str(tmp_path / "d"), "mnist"):
        recipe = Recipe(**FIELDS, dataset=dataset)
        few = few_images(recipe, split, fasttrain.data.Statistics((0.0,) * 3, (1.0,) * 3), most=4)
        shown[dataset] = (few[:, 0, 0, 0] * 255).round().tolist()
    assert list(shown.values()) == [[0, 5, 10, 15], [0, 1, 2, 3]]
