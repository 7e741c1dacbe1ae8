"""The weights alone: opened by fasttrain again, and by timm where it has the network."""

import json

import pytest
import torch
from safetensors.torch import load
from torch import nn

import fasttrain
from fasttrain.data.preprocessing import Preprocessing
from fasttrain.export.safetensors_file import config, write
from fasttrain.models import build
from fasttrain.models.weights import load_weights
from fasttrain.recipe.recipe import Recipe


def network(model, side):
    return build.network(Recipe(model=model), classes=7, side=side)


def scale(side, fit="crop"):
    return Preprocessing(side, fit, (0.5,) * 3, (0.25,) * 3, tuple("abcdefg"))


def test_a_run_starts_from_exported_weights(run, tmp_path):
    trained = fasttrain.load(run, device="cpu")
    fresh, file = build.network(trained.recipe), tmp_path / "model.safetensors"
    file.write_bytes(write(trained.module, trained.recipe, 32))
    assert load_weights(fresh, file, classes=10) == ()
    for name, weight in trained.module.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], weight), name


def timms_names(depths):
    """The names that timm and torchvision give the weights of a ResNet of basic blocks."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"conv1.weight", "fc.weight", "fc.bias", *(f"bn1.{each}" for each in norm)}
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            place = f"layer{stage}.{block}"
            names |= {f"{place}.conv{number}.weight" for number in (1, 2)}
            names |= {f"{place}.bn{number}.{each}" for number in (1, 2) for each in norm}
        if stage > 1:
            names |= {f"layer{stage}.0.downsample.0.weight"}
            names |= {f"layer{stage}.0.downsample.1.{each}" for each in norm}
    return names


def test_a_resnet_with_the_published_stem_has_timms_names_and_the_others_do_not(tmp_path):
    model = network("resnet18", 160)
    content = write(model, Recipe(model="resnet18"), 160)
    assert set(load(content)) == timms_names((2, 2, 2, 2))
    about = config(model, Recipe(model="resnet18"), scale(160, "pad"))
    assert (about["architecture"], about["num_classes"]) == ("resnet18", 7)
    assert about["label_names"] == list("abcdefg")
    described = about["pretrained_cfg"]
    assert described["input_size"] == [3, 160, 160]
    assert (described["mean"], described["std"]) == ([0.5] * 3, [0.25] * 3)
    assert (described["crop_pct"], described["crop_mode"]) == (1.0, "border")
    assert (described["interpolation"], described["classifier"]) == ("bilinear", "fc")
    (tmp_path / "model.safetensors").write_bytes(content)
    again = network("resnet18", 160)
    assert load_weights(again, tmp_path / "model.safetensors", classes=7) == ()
    assert torch.equal(again.layer2[0].shortcut[0].weight, model.layer2[0].shortcut[0].weight)


@pytest.mark.parametrize(("name", "side"), [("resnet18", 128), ("wrn-16-8", 160)])
def test_what_timm_does_not_have_is_not_passed_off_as_its(name, side):
    model = nn.Linear(1, 1)  # the names alone decide
    assert config(model, Recipe(model=name), scale(side))["architecture"] == f"fasttrain/{name}"


def test_timms_own_networks_keep_their_names_and_what_timm_says_of_them():
    model = nn.ModuleDict({"shortcut": nn.ModuleDict({"downsample": nn.Linear(1, 1)})})
    model.pretrained_cfg = {"fixed_input_size": True, "classifier": "head", "url": "elsewhere"}
    recipe = Recipe(model="timm:vit_tiny_patch16_224")
    assert set(load(write(model, recipe, 224))) == set(model.state_dict())
    about = config(model, recipe, scale(64))
    assert about["architecture"] == "vit_tiny_patch16_224"
    assert about["pretrained_cfg"]["fixed_input_size"] is True
    assert "url" not in about["pretrained_cfg"]
    json.dumps(about)


def test_weights_that_share_memory_are_written_and_read():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    assert len(load(write(model, Recipe(model="a:b"), 32))) == 4
