"""Weights of a run or a file start a network, and what is frozen does not move."""

from __future__ import annotations

import copy

import pytest
import torch
from made_images import folder
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.data import CLASSES, cifar10
from fasttrain.engine import build as engine_build
from fasttrain.errors import CheckpointError, UsageError
from fasttrain.models import build
from fasttrain.models.weights import freeze, head, load_weights
from fasttrain.recipe.recipe import Recipe, make
from fasttrain.storage import checkpoint
from tests import tiny_runs
from tests.conftest import tiny_model
from tests.tiny_runs import small


@pytest.fixture
def tiny(monkeypatch):
    tiny_runs.shrink(monkeypatch)


def other(classes: int = 10, seed: int = 1) -> nn.Module:
    """A tiny network with statistics of its own."""
    model = tiny_model(seed, classes)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 32, 32))
    return model


def saved(path, model: nn.Module, prefix: str = "", **more):
    tensors = {prefix + name: each.contiguous() for name, each in model.state_dict().items()}
    save_file({**tensors, **more}, path)
    return path


def differing(one: nn.Module, two: nn.Module) -> set[str]:
    theirs = two.state_dict()
    return {
        name
        for name, each in one.state_dict().items()
        if each.shape != theirs[name].shape or not torch.equal(each, theirs[name])
    }


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
def test_a_file_of_the_same_classes_is_loaded_whole(tmp_path, prefix):
    given, model = other(), tiny_model(0)
    assert differing(given, model)
    assert load_weights(model, saved(tmp_path / "a.safetensors", given, prefix), classes=10) == ()
    assert differing(given, model) == set()


@pytest.mark.parametrize("classes", [2, 11])
def test_another_number_of_classes_gets_a_new_head(tmp_path, classes):
    given, model = other(10), tiny_model(0, classes)
    fresh = model[-1].weight.clone()
    new = load_weights(model, saved(tmp_path / "a.safetensors", given), classes=classes)
    assert new == ("8.weight", "8.bias")
    assert differing(given, model) == set(new)
    assert torch.equal(model[-1].weight, fresh)


def test_weights_without_a_head_or_without_counters_are_enough(tmp_path):
    given, model = other(), tiny_model(0)
    tensors = {n: t.contiguous() for n, t in given.state_dict().items()}
    for name in ("8.weight", "8.bias", "1.num_batches_tracked"):
        del tensors[name]
    save_file(tensors, tmp_path / "a.safetensors")
    assert load_weights(model, tmp_path / "a.safetensors", classes=10) == ("8.weight", "8.bias")
    assert differing(given, model) == {"8.weight", "8.bias", "1.num_batches_tracked"}


def test_half_precision_is_widened(tmp_path):
    given, model = other().half(), tiny_model(0)
    load_weights(model, saved(tmp_path / "a.safetensors", given), classes=10)
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, given[0].weight.float())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t.pop("3.weight"), "it has no 3.weight"),
        (lambda t: t.update({"3.weight": torch.zeros(16, 8, 5, 5)}), "3.weight is (16, 8, 5, 5)"),
        (lambda t: t.update({"extra.bias": torch.zeros(2)}), "this network has no extra.bias"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path, change, why):
    tensors = {n: t.contiguous() for n, t in other().state_dict().items()}
    change(tensors)
    save_file(tensors, tmp_path / "a.safetensors")
    model = tiny_model(0)
    before = copy.deepcopy(model)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, tmp_path / "a.safetensors", classes=10)
    assert why in str(caught.value)
    assert differing(before, model) == set()


def test_files_that_cannot_be_read_are_refused_with_5(tmp_path):
    (tmp_path / "damaged.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      12")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name in ("missing.safetensors", "damaged.safetensors", "empty.safetensors", "folder", "no"):
        with pytest.raises(CheckpointError, match=name):
            load_weights(tiny_model(0), tmp_path / name, classes=10)


def test_the_head_is_the_last_layer_with_an_output_for_every_class():
    assert head(tiny_model(), classes=10) == "8"
    conv = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(3, 4, 1), nn.ReLU())
    assert head(conv, classes=4) == "1"
    for name in ("resnet18", "wrn-16-8", "sprint"):
        with torch.device("meta"):
            assert head(build.network(Recipe(model=name), classes=7), classes=7) == "fc"
    with pytest.raises(UsageError, match="has 12 outputs"):
        head(conv, classes=12)


def test_only_the_head_of_a_frozen_network_moves_and_statistics_stay():
    model = other()
    freeze(model, classes=10)
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        model.train()
        loss = F.cross_entropy(model(torch.randn(8, 3, 32, 32) * 5), torch.arange(8))
        loss.backward()
        optimizer.step()
    assert differing(before, model) == {"8.weight", "8.bias"}
    twin = copy.deepcopy(model).train()
    assert not twin[1].training
    assert twin[2].training


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
def test_every_kind_of_batch_norm_stays_in_eval_mode_when_frozen(kind):
    model = nn.Sequential(kind(3), nn.Flatten(), nn.Linear(3, 2))
    freeze(model, classes=2)
    model.train()
    assert not model[0].training
    assert isinstance(model[0], kind)
    assert list(model.state_dict()) == list(copy.deepcopy(model).state_dict())


def test_init_from_a_run_starts_with_its_best_weights(tiny, tmp_path):
    fasttrain.train(small(), out=tmp_path / "first")
    recipe = small(init=tmp_path / "first", freeze=True, lr=0.5)
    built = engine_build.build(recipe, cifar10.data(*tiny_runs.images(48, 32)))
    state = checkpoint.load(tmp_path / "first" / "checkpoints" / "best.pt")["model"]
    assert all(torch.equal(t, state[n]) for n, t in built.step.model.state_dict().items())
    for name in ("last.pt", "best.pt"):
        path = tmp_path / "first" / "checkpoints" / name
        assert load_weights(tiny_runs.TinyNet(), path, classes=10) == ()


def test_a_head_of_as_many_classes_with_other_names_is_not_taken(tiny, tmp_path):
    fasttrain.train(small(), out=tmp_path / "first")
    recipe, odd = small(init=tmp_path / "first"), [f"odd {n}" for n in range(10)]
    kept = checkpoint.load(tmp_path / "first" / "checkpoints" / "best.pt")["model"]["fc.weight"]
    for names, new in ((CLASSES, ()), ((), ()), (odd, ("fc.weight", "fc.bias"))):
        model = tiny_runs.TinyNet()
        before = model.fc.weight.clone()
        assert build.prepare(recipe, model, names=names) == new
        assert torch.equal(model.fc.weight, before if new else kept)


def test_a_run_from_weights_says_once_which_of_them_are_new(tiny, tmp_path, capsys):
    def said(*words: str) -> list[str]:
        flags = "--batch-size 16 --device cpu --loader resident --epochs 2 --lr 0.05 --test-limit 8"
        assert cli.main([*flags.split(), *words]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if "weights of" in line]

    first, cache = str(tmp_path / "first"), str(tmp_path / "cache")
    synthetic = ["--dataset", "synthetic", "--train-limit", "48"]
    assert said(*synthetic, "--out", first) == []
    again = [*synthetic, "--init", first, "--out", str(tmp_path / "again")]
    assert said(*again) == [f"  weights of {first}; with their head"]
    own = ["--dataset", str(folder(tmp_path / "d", "abc", count=12)), "--cache-dir", cache]
    own += ["--side", "32", "--init", first, "--out", str(tmp_path / "own")]
    assert said(*own) == [f"  weights of {first}; new head: fc.weight, fc.bias"]
    assert said("--resume", str(tmp_path / "own"), "--epochs", "3", "--override") == []


def test_a_frozen_run_can_be_resumed_though_its_first_weights_are_gone(tiny, tmp_path):
    weights = saved(tmp_path / "w.safetensors", tiny_runs.TinyNet())
    changes = {"init": weights, "freeze": True}
    tiny_runs.train(tmp_path / "whole", epochs=2, **changes)
    fasttrain.train(small(epochs=1, **changes), out=tmp_path / "half")
    weights.unlink()
    fasttrain.train(small(epochs=2, **changes), continued=tmp_path / "half", override=True)
    one, two = (
        checkpoint.load(tmp_path / name / "checkpoints" / "last.pt")["step"]["model"]
        for name in ("whole", "half")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_command_line_says_what_a_finetune_lacks_and_what_does_not_fit(tiny, tmp_path, capsys):
    tiny_flags = "--dataset synthetic --train-limit 16 --test-limit 8 --batch-size 8 --lr 0.1"
    more_flags = ["--device", "cpu", "--loader", "resident", "--out", str(tmp_path / "run")]
    flags = [*tiny_flags.split(), *more_flags]

    def said(*more: str) -> tuple[int, str]:
        code = cli.main([*flags, *more])
        return code, capsys.readouterr().err.splitlines()[-1]

    code, line = said("--recipe", "finetune")
    assert (code, "--init (none): --recipe finetune starts from trained weights" in line) == (
        2,
        True,
    )
    code, line = said("--freeze")
    assert (code, "--init (none): --freeze starts from trained weights" in line) == (2, True)
    code, line = said("--init", str(saved(tmp_path / "a.safetensors", tiny_model(0))))
    assert (code, "not of this network: it has no conv1.weight" in line) == (5, True)
    code, line = said("--init", str(tmp_path / "nothing"))
    assert code == 5


def test_the_finetune_recipe_keeps_a_low_rate_and_takes_other_fields():
    recipe = make({"recipe": "finetune", "init": "runs/a"})
    assert (recipe.lr, recipe.scheduler, recipe.model) == (0.01, "cosine", "resnet18")
    assert make({"recipe": "finetune", "model": "resnet50"}).model == "resnet50"
