"""A run opened for use gives the numbers that its training gave."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import fasttrain
from fasttrain.data.preprocessing import Preprocessing
from fasttrain.errors import CheckpointError
from fasttrain.explain import subject
from fasttrain.machine import auto


@pytest.fixture(scope="module")
def classifier(trained):
    return fasttrain.load(trained, device="cpu")


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_an_image_gets_the_same_numbers_in_any_company(amp, classifier, monkeypatch):
    if amp == "bf16" and not auto.cpu_multiplies_bf16():
        amp = "auto"  # there bf16 would be emulated
    monkeypatch.setattr(classifier, "recipe", replace(classifier.recipe, amp=amp))
    images = np.random.default_rng(0).integers(0, 256, (classifier.batch_size + 9, 32, 32, 3))
    images = images.astype(np.uint8)
    all_of_them = classifier.probabilities(images)
    for few in (slice(0, 1), slice(7, 9), slice(100, 137)):
        np.testing.assert_array_equal(classifier.probabilities(images[few]), all_of_them[few])


def test_an_image_gets_the_same_numbers_wherever_it_stands(classifier):
    images = np.random.default_rng(0).integers(0, 256, (37, 32, 32, 3), np.uint8)
    found = classifier.probabilities(images, batch_size=16)
    assert found.shape == (37, 10)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    turned = classifier.probabilities(images[::-1], batch_size=16)
    np.testing.assert_array_equal(turned[::-1], found)


def test_the_network_sees_pixels_normalised_as_in_training(classifier, trained):
    found = subject.open_run(trained, device="cpu")
    few = np.asarray(found.analysed.images[:5])
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in found.data.statistics)
    pixels = torch.from_numpy(few).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(classifier.inputs(few), (pixels - mean) / std, atol=1e-5, rtol=0)


def test_flips_average_an_image_with_its_mirror_image(classifier):
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)
    both = classifier.probabilities(images, flips=True)
    mirrored = classifier.probabilities(images[:, :, ::-1], flips=True)
    np.testing.assert_allclose(both, mirrored, atol=1e-6)
    assert np.abs(both - classifier.probabilities(images)).max() > 1e-6


def test_its_preprocessing_survives_as_plain_values(classifier):
    about = classifier.preprocessing.as_dict()
    assert about["classes"][3] == "cat"
    assert about["side"] == 32
    kept = {name: about[name] for name in ("side", "mean", "std", "classes", "rule")}
    assert Preprocessing.saved(kept, classifier.recipe) == classifier.preprocessing


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no checkpoints/best\.pt: it is no run"):
        fasttrain.load(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        fasttrain.load(tmp_path / "nosuch")
