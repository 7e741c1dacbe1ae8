"""model.json says what is needed to use the weights, and a run of 0.1 is used without it."""

import json
from pathlib import Path

import numpy as np
import torch

import fasttrain
from fasttrain.models.build import network
from fasttrain.run import folders
from fasttrain.storage import checkpoint

OLD = Path(__file__).parents[1] / "release_0_1"


def test_model_json_is_enough_to_use_the_weights(trained):
    about = json.loads((trained / "model.json").read_text())
    classifier = fasttrain.load(trained, device="cpu")
    prepared = about["preprocessing"]
    assert prepared == json.loads(json.dumps(classifier.preprocessing.as_dict()))
    assert about["model"] == "sprint"
    assert about["parameters"] == sum(w.numel() for w in classifier.module.parameters())
    # As its "input" and "output" say, with nothing of fasttrain but the module itself.
    module = network(classifier.recipe).eval()
    module.load_state_dict(checkpoint.load(trained / about["weights"])["model"])
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    mean, std = (torch.tensor(prepared[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    inputs = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        found = module(inputs).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, classifier.probabilities(images), atol=0.02)  # of bf16


def test_overwrite_may_remove_it(trained):
    assert folders.foreign_file(trained) is None
    assert trained / "model.json" in folders.own_files(trained)


def test_a_run_of_0_1_has_none_and_predicts():
    run = OLD / "interrupted"
    assert not (run / "model.json").exists()
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    found = fasttrain.load(run, device="cpu").predict(images)
    assert [one.error for one in found] == [None] * 3
    assert {one.class_name for one in found} <= set(fasttrain.data.CLASSES)
