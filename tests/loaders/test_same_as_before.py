"""At side 32, draws, pixels and networks are bit for bit those of release 0.1.

The digests were made by its code: an unfinished run of it goes on, and its numbers stay true.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from fasttrain.data import synthetic
from fasttrain.loaders import draws
from fasttrain.loaders.resident import ResidentLoader
from fasttrain.models import build
from fasttrain.recipe.recipe import Recipe

CASES = {
    "default": {},
    "reference": {"pad": 0, "hole": 16, "hole_probability": 0.5},
    "sprint": {"pad": 2, "hole": 0, "alternate": True},
}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def digest(*arrays) -> str:
    """SHA-256 of the arrays' dtypes, shapes and bytes, its first 16 digits."""
    found = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        found.update(f"{array.dtype.str} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()[:16]


def drawn(case: str) -> str:
    epochs = [draws.draw(epoch, seed=3, count=1000, **CASES[case]) for epoch in (1, 2, 7)]
    return digest(*(field for draw in epochs for field in draw))


def pixels(case: str) -> str:
    options = CASES[case]
    loader = ResidentLoader(
        synthetic.load(300, 1)[0],
        lambda epoch: draws.draw(epoch, seed=3, count=300, **options),
        batch_size=32,
        device="cpu",
        mean=MEAN,
        std=STD,
        hole=options.get("hole", 8),
        drop_last=True,
        reflect=case == "sprint",
    )
    batches = [batch for _ in range(2) for batch in loader]
    return digest(*(half.numpy() for batch in batches for half in batch))


def weights(model: str) -> str:
    torch.manual_seed(5)
    made = build.network(Recipe(model=model, widths="8,16,24"))
    names = np.frombuffer(" ".join(made.state_dict()).encode(), np.uint8)
    return digest(names, *(weight.numpy() for weight in made.state_dict().values()))


def images(seed: int) -> str:
    return digest(*(array for split in synthetic.load(1100, 20, seed=seed) for array in split))


# What release 0.1 printed: draws and pixels of each case.
BEFORE = {
    "default": ("082606b800f1fc58", "af75466cdb9090c4"),
    "reference": ("de3982d098360a4e", "6b0f6c9f73dfbeb7"),
    "sprint": ("4af8410bdcd61cc3", "9a5f8257b7cf424b"),
}
WEIGHTS = {"resnet18": "0d37ca0bd6812978", "sprint": "37840dd890403f3c"}


@pytest.mark.parametrize("case", CASES)
def test_draws_and_resident_pixels_are_those_of_release_0_1(case):
    assert (drawn(case), pixels(case)) == BEFORE[case]


@pytest.mark.parametrize("model", WEIGHTS)
def test_networks_have_the_names_order_and_first_weights_of_release_0_1(model):
    assert weights(model) == WEIGHTS[model]


@pytest.mark.parametrize(
    ("seed", "before"), [(0, "e4b1f61645752a92"), (1, "ed73ba833ebe6257")], ids=str
)
def test_synthetic_images_are_those_of_release_0_1(seed, before):
    assert images(seed) == before


def test_one_number_that_differs_changes_the_digest():
    one = np.zeros((3, 2), np.int32)
    assert digest(one) == digest(one.copy())
    assert digest(one) != digest(one + np.eye(3, 2, dtype=np.int32))
    assert digest(one) != digest(one.astype(np.int64))
    assert digest(one) != digest(one.T)
