"""The resize inside an exported file gives the pixels that training saw, bit for bit."""

import numpy as np
import pytest
import torch
from exporting import SIZES, noise
from PIL import Image
from torch import nn

import fasttrain
from fasttrain.data import pictures
from fasttrain.export.graph import Graph
from fasttrain.export.resize import fitted

SIDES = (9, 32, 64, 224)


def of_pillow(image, side, fit):
    return pictures.pixels(Image.fromarray(image), side, fit=fit)


def in_graph(image, side, fit):
    return fitted(torch.from_numpy(image)[None], side, fit=fit)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("fit", pictures.FITS)
def test_it_is_pillows_in_every_pixel_enlarging_and_reducing(fit):
    random = np.random.default_rng(1)
    drawn = np.exp(random.uniform(0, np.log(600), (40, 2))).round().astype(int).tolist()
    for number, (height, width) in enumerate([*SIZES, *drawn]):
        image, side = noise(height, width, seed=number), SIDES[number % len(SIDES)]
        found = in_graph(image, side, fit)
        np.testing.assert_array_equal(
            found, of_pillow(image, side, fit), f"{height} {width} {side}"
        )


@pytest.mark.parametrize(("height", "width", "side"), [(66, 55, 9), (27, 192, 224), (35, 70, 9)])
def test_a_padded_size_on_the_edge_of_rounding_is_that_of_pythons_floats(height, width, side):
    """In float32 these would be a pixel longer or shorter."""
    image = noise(height, width, seed=1)
    np.testing.assert_array_equal(in_graph(image, side, "pad"), of_pillow(image, side, "pad"))


def test_torchs_own_resize_is_a_level_away_so_that_the_comparison_sees_one_level():
    image = noise(300, 500, seed=1)
    planes = torch.from_numpy(image)[None].permute(0, 3, 1, 2).float()
    found = nn.functional.interpolate(planes, (32, 32), mode="bilinear", antialias=True)
    there = of_pillow(image, 32, "squash").transpose(2, 0, 1)
    assert 0 < np.abs(found[0].round().numpy() - there).max() <= 1


def test_a_reduction_by_five_hundred_is_still_exact():
    image = noise(5000, 3, seed=4)
    np.testing.assert_array_equal(in_graph(image, 10, "squash"), of_pillow(image, 10, "squash"))


def test_the_normalisation_is_the_loaders(run):
    classifier = fasttrain.load(run, device="cpu")
    images = np.stack([noise(32, 32, seed=seed) for seed in range(4)])
    graph = Graph(nn.Flatten(), classifier.preprocessing)
    found = graph(torch.from_numpy(images))[0].view(4, 3, 32, 32)
    torch.testing.assert_close(found, classifier.inputs(images), atol=0, rtol=0)
