"""What was measured is found again for the same facts, and for no others."""

from __future__ import annotations

import platformdirs
import pytest
import torch

from fasttrain.data import Split, cifar10, synthetic
from fasttrain.engine.choices import facts
from fasttrain.machine import environment, remembered
from fasttrain.models.resnet import ResNet18
from fasttrain.parallel.group import Group
from fasttrain.recipe.recipe import Recipe

FACTS = {"machine": {"cpu": "a", "gpu": None}, "batch": 128, "side": 32}


def test_it_is_found_again_whatever_the_order_of_the_facts(tmp_path):
    folder = tmp_path / "not" / "there"
    assert remembered.read(folder, FACTS) is None
    assert remembered.write(folder, FACTS, {"steps": [1.5]}) is None
    assert remembered.read(folder, dict(reversed(FACTS.items()))) == {"steps": [1.5]}
    assert [file.suffix for file in folder.iterdir()] == [".json"]


@pytest.mark.parametrize(
    "change", [{"batch": 64}, {"machine": {"cpu": "a", "gpu": "b"}}, {"more": None}]
)
def test_other_facts_are_another_entry(tmp_path, change):
    remembered.write(tmp_path, FACTS, {"steps": []})
    assert remembered.read(tmp_path, {**FACTS, **change}) is None
    assert remembered.digest(FACTS) != remembered.digest({**FACTS, **change})


def test_an_entry_under_the_name_of_other_facts_is_not_used(tmp_path):
    remembered.write(tmp_path, FACTS, {"steps": []})
    other = {**FACTS, "batch": 64}
    names = (tmp_path / f"{remembered.digest(each)}.json" for each in (FACTS, other))
    next(names).rename(next(names))
    assert remembered.read(tmp_path, other) is None


def test_a_process_killed_in_a_write_leaves_what_the_next_write_removes(tmp_path):
    left = tmp_path / f".{remembered.digest(FACTS)}.json.12.0123abcd.tmp"
    left.write_bytes(b"{")
    remembered.write(tmp_path, FACTS, {"steps": []})
    assert not left.exists()


def test_without_a_home_folder_nothing_is_remembered_and_why_is_said(monkeypatch):
    def homeless(*args, **options):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(platformdirs, "user_cache_path", homeless)
    assert remembered.default_folder() is None
    assert remembered.read(None, FACTS) is None
    assert remembered.write(None, FACTS, {}) == "there is no home folder"


def of(recipe=None, model=None, world=1, **changes):
    """The digest of a run's facts on a machine that is always the same."""
    train, test = synthetic.load(16, 8)
    side = changes.get("side", 32)
    train = Split(train.images.repeat(side // 32, 1).repeat(side // 32, 2), train.labels)
    data = cifar10.data(train, test)
    group = Group()
    group.world = world
    given = facts(recipe or Recipe(), model or torch.nn.Linear(1, 1), data, group)
    return remembered.digest(given)


def test_a_run_has_another_key_with_anything_that_its_speed_depends_on(monkeypatch):
    monkeypatch.setattr(environment, "hardware", lambda: {"torch": "2.13"})
    keys = [of()]
    changes = [{"batch_size": 64}, {"amp": "bf16"}, {"graphs": "off"}, {"loader": "resident"}]
    changes += [{"deterministic": True}, {"cutout": 0}, {"filters": "muon"}, {"optimizer": "torch"}]
    keys += [of(Recipe(**change)) for change in changes]
    keys += [of(model=ResNet18()), of(world=2), of(side=64)]
    monkeypatch.setattr(environment, "hardware", lambda: {"torch": "2.14"})
    keys.append(of())
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"lr": 0.1}, {"epochs": 3}, {"save_every": 3.0}, {"tune": "always"}]
)
def test_a_run_has_the_same_key_with_what_its_speed_does_not_depend_on(monkeypatch, change):
    monkeypatch.setattr(environment, "hardware", lambda: {"torch": "2.13"})
    assert of(Recipe(**change)) == of()
