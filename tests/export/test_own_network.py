"""Own images and an own network: what cannot be traced is said, and its weights are exported."""

import json
import shutil
import sys

import made_images
import pytest
import small_run
import torch
from torch import nn

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.data import fetch
from fasttrain.data.preprocessing import Preprocessing
from fasttrain.errors import UsageError
from fasttrain.export import held_out, onnx_file
from fasttrain.export.graph import Graph, trace
from fasttrain.recipe.recipe import Recipe

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = self.body(x).flatten(1)
        return self.head(x * 1 if len(x) % 2 else x)

def make(num_classes):
    return Net(num_classes)
"""
CLASSES = ["Hündin", "cat", "a|b"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with images of three classes, a network that looks at its batch, and its run."""
    where = tmp_path_factory.mktemp("own")
    (where / "exported_net.py").write_text(NET)
    made_images.folder(where / "photos", CLASSES, count=12)
    with pytest.MonkeyPatch.context() as patches:
        patches.chdir(where)
        patches.setattr(sys, "path", [*sys.path])
        changes = {"dataset": str(where / "photos"), "model": "exported_net:make", "epochs": 1}
        changes |= {"train_limit": None, "test_limit": None, "batch_size": 8}
        changes |= {"amp": "off", "cache_dir": str(where / "cache")}
        small_run.train(where / "run", **changes)
        yield where
    sys.modules.pop("exported_net", None)


def test_what_cannot_be_traced_is_exit_2_and_its_weights_are_exported(world, capsys):
    capsys.readouterr()
    assert cli.main(["export", "run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "fasttrain: error: --format (onnx, pt2): torch.export cannot trace --model "
    )
    assert said.endswith("or use --format safetensors.\n")
    assert said.count("\n") == 1
    assert not (world / "run" / "export").exists()
    assert cli.main(["export", "run", "--format", "safetensors"]) == 0
    out = world / "run" / "export"
    assert json.loads((out / "classes.json").read_text()) == sorted(CLASSES)
    assert (
        json.loads((out / "config.json").read_text())["architecture"]
        == "fasttrain/exported_net:make"
    )


class WithoutTranslation(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x.mean((2, 3)))


def test_an_operator_that_onnx_does_not_have_is_named_and_nothing_else_is_printed(capfd):
    scale = Preprocessing(8, "crop", (0.0,) * 3, (1.0,) * 3, ("a", "b", "c"))
    program = trace(Graph(WithoutTranslation(), scale, resizes=False), "it")
    with pytest.raises(UsageError) as caught:
        onnx_file.write(program, {})
    said = str(caught.value)
    assert said.startswith("--format (onnx): torch cannot write this network as ONNX: ")
    assert "bessel_j0" in said
    assert said.isprintable()
    assert capfd.readouterr() == ("", "")


def test_the_card_names_the_data_by_its_digest_and_any_class_by_its_name(world):
    assert cli.main(["export", "run", "--format", "safetensors", "--out", "weights"]) == 0
    card = (world / "weights" / "README.md").read_text(encoding="utf-8")
    listing = json.loads((world / "run" / "summary.json").read_text())["data"]["listing"]
    assert f"- SHA-256 of the listing of all images: `{listing}`" in card
    assert "| a\\|b | " in card
    assert "| Hündin | " in card
    assert "trained on photos by fasttrain" in card
    assert str(world) not in card


def test_without_the_images_noise_alone_verifies_and_that_is_said(world, capsys):
    def counts(name):
        record = json.loads((world / name / "export.json").read_text())
        return [each["what"] for each in record["verification"]["images"]]

    assert cli.main(["export", "run", "--format", "safetensors", "--out", "with"]) == 0
    capsys.readouterr()
    shutil.move(world / "photos", world / "elsewhere")
    try:
        assert cli.main(["export", "run", "--format", "safetensors", "--out", "without"]) == 0
    finally:
        shutil.move(world / "elsewhere", world / "photos")
    said = " ".join(capsys.readouterr().out.split())
    assert "verified with noise alone: the run's images cannot be used (they are not on" in said
    assert counts("with") == ["held out", *["noise"] * 3]
    assert counts("without") == ["noise"] * 3
    assert "on 0 held-out images and 30 of noise" in (world / "without" / "README.md").read_text()


def test_images_that_are_no_longer_those_of_the_run_are_not_taken(world):
    state = torch.load(world / "run" / "checkpoints" / "best.pt", weights_only=True)
    classifier = fasttrain.load(world / "run", device="cpu")
    same, why = held_out.images(classifier.recipe, state["data"])
    assert (len(same), why) == (5, "")
    made_images.save(world / "photos" / "cat" / "new.png", 7777)
    try:
        none, why = held_out.images(classifier.recipe, state["data"])
    finally:
        (world / "photos" / "cat" / "new.png").unlink()
    assert len(none) == 0
    assert "not the images that the run was trained on" in why


def test_a_data_set_that_is_not_there_is_not_downloaded(tmp_path, monkeypatch):
    def fetched(*arguments, **options):
        raise AssertionError("an export must not download")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fetch, "fetch", fetched)
    for name in ("cifar10", "cifar100", "mnist"):
        found, why = held_out.images(Recipe(dataset=name), None)
        assert len(found) == 0
        assert why == "they are not on this machine"
