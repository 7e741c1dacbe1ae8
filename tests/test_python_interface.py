"""The Python interface accepts numbers of numpy and torch, any paths, and recipes by name."""

from __future__ import annotations

import copy
import enum
import importlib
import json
import pickle
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fasttrain
from fasttrain.cli import flags, repeat, spread
from fasttrain.cli import main as cli
from fasttrain.cli.values import parse
from fasttrain.data import cifar10, synthetic
from fasttrain.engine.state import Epoch
from fasttrain.engine.step import Step
from fasttrain.errors import UsageError
from fasttrain.models import build as models_build
from fasttrain.optim.schedule import EveryStep, Plateau
from fasttrain.optim.sgd import sgd
from fasttrain.recipe.recipe import FIELDS, RECIPES, Recipe, make
from fasttrain.run import ending, finish
from fasttrain.storage import checkpoint
from tests import tiny_runs
from tests.conftest import tiny_model
from tests.tiny_runs import SMALL, TinyNet, small


class Word(str, enum.Enum):
    LINEAR = "linear"


class Number(enum.IntEnum):
    THREE = 3


GIVEN = [
    ("lr", np.geomspace(1e-3, 1, 4)[1], float(np.geomspace(1e-3, 1, 4)[1])),
    ("lr", np.float32(0.5), 0.5),
    ("lr", torch.tensor(0.25), 0.25),
    ("lr", torch.tensor(0.25, requires_grad=True), 0.25),
    ("lr", np.array(0.25), 0.25),
    ("lr", 1, 1),
    ("epochs", np.int64(3), 3),
    ("epochs", torch.tensor(3), 3),
    ("epochs", np.uint8(3), 3),
    ("epochs", Number.THREE, 3),
    ("train_limit", np.int32(40), 40),
    ("alternate", np.bool_(True), True),
    ("deterministic", torch.tensor(True), True),
    ("scheduler", np.str_("linear"), "linear"),
    ("scheduler", Word.LINEAR, "linear"),
    ("data_dir", Path("a") / "b", str(Path("a") / "b")),
    ("target_accuracy", np.float64(0.0), 0.0),
    ("target_accuracy", None, None),
]


@pytest.mark.parametrize(("name", "given", "kept"), GIVEN)
def test_a_field_takes_anybodys_scalar_and_path_as_what_it_is(name, given, kept):
    for made in (Recipe(**{name: given}), replace(Recipe(), **{name: given})):
        found = getattr(made, name)
        assert found == kept
        assert type(found) is type(kept)
        assert Recipe(**json.loads(json.dumps(made.as_dict()))) == made


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("epochs", np.float64(3.0)),  # as 3.0 is none
        ("epochs", np.array([3])),
        ("epochs", np.bool_(True)),
        ("lr", np.float64("nan")),
        ("lr", torch.ones(2)),
        ("lr", np.ones((9, 9))),
        ("lr", 10**400),
        ("lr", 1j),
        ("seed", torch.tensor(-1)),
        ("scheduler", np.array(["linear", "cosine"])),
        ("alternate", np.int64(1)),
        ("data_dir", b"a"),
        ("data_dir", 5),
    ],
)
def test_what_is_no_value_of_a_field_is_refused_in_a_line(name, given):
    with pytest.raises(UsageError, match="--" + name.replace("_", "-")) as caught:
        Recipe(**{name: given})
    assert "\n" not in str(caught.value)


def test_a_run_of_numpys_numbers_and_paths_as_text_is_the_run_of_pythons(tiny, tmp_path):
    odd = {"lr": np.float64(0.05), "epochs": np.int64(2), "batch_size": torch.tensor(16)}
    rows = fasttrain.train(small(**odd), out=str(tmp_path / "a"))
    assert fasttrain.train(small(), out=tmp_path / "b")[-1][:6] == rows[-1][:6]
    assert tiny_runs.same(tiny_runs.end(tmp_path / "a"), tiny_runs.end(tmp_path / "b"))
    more = fasttrain.train(small(epochs=np.int32(3)), continued=str(tmp_path / "a"), override=True)
    assert [row.epoch for row in more] == [1, 2, 3]
    assert isinstance(more[0], Epoch)


def test_every_command_takes_a_path_as_text(tiny, tmp_path, monkeypatch):
    repeat.train_runs(small(epochs=1), 2, out=str(tmp_path / "s"))
    run, seen = tmp_path / "s" / "seed-0", []
    monkeypatch.setattr(finish.figures, "draw_all", lambda path, **_: seen.append(path))
    monkeypatch.setattr(finish.html, "write", lambda path: path / "report.html")
    monkeypatch.setattr(finish.html, "check_targets", lambda path: None)
    assert finish.draw_report(str(run)) == run / "report.html"
    assert seen == [run]


@pytest.mark.parametrize("bad", ["", "a\0b", 5, b"a", "x" * 300])
@pytest.mark.parametrize("name", ["out", "continued"])
def test_what_is_no_path_is_refused_before_anything_is_touched(name, bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^path \("):
        fasttrain.train(small(), **{name: bad})
    assert list(tmp_path.iterdir()) == []


class Odd(TinyNet):
    """A network whose state holds what no checkpoint may."""

    def get_extra_state(self) -> object:
        return {"temperature": np.float64(1.0)}

    def set_extra_state(self, state: object) -> None:
        pass


def test_what_could_not_be_saved_is_said_before_the_first_step(tiny, tmp_path, monkeypatch):
    steps = []
    plain = Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda *given: steps.append(1) or plain(*given))
    fasttrain.train(small(), out=tmp_path / "control")
    assert len(steps) == 6
    steps.clear()
    monkeypatch.setattr(models_build, "ResNet18", Odd)
    with pytest.raises(TypeError, match=r"plain values only, not an object of numpy\.float64"):
        fasttrain.train(small(), out=tmp_path / "a")
    assert steps == []


def test_parts_given_numpys_numbers_have_a_state_that_can_be_saved(tmp_path):
    a = np.float64
    step = Step(
        tiny_model(),
        sgd(tiny_model(), lr=a(0.1), momentum=a(0.9), weight_decay=a(1e-4)),
        label_smoothing=np.float32(0.5),
    )
    step.lr = a(0.2)
    plateau = Plateau(step.optimizer, patience=np.int64(3), factor=a(0.1), threshold=a(0.001))
    cycle = EveryStep(step.optimizer, kind="onecycle", lr=a(0.2), steps=np.int64(5))
    loose = Step(tiny := nn.Linear(2, 2), torch.optim.SGD(tiny.parameters(), lr=0.1))
    loose.lr = np.float64(0.3)  # a rate that is a plain number
    for number, part in enumerate((step, plateau, cycle, loose)):
        checkpoint.save(tmp_path / f"{number}.pt", part.state_dict())


# --- named recipes --------------------------------------------------------------------------------

ASKED = [
    {},
    {"epochs": 3},
    {"target_accuracy": 0.94},
    {"target_accuracy": 0.94, "epochs": 3},
    {"target_accuracy": None},
    {"target_accuracy": 0},
    {"target_accuracy": 0.0, "lr": "auto"},
    {"model": "resnet18", "momentum": 0.9},
]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("asked", ASKED)
def test_a_named_recipe_is_the_command_lines_however_it_is_made(name, asked):
    words = [f"--{key.replace('_', '-')}={str(value).lower()}" for key, value in asked.items()]
    _, _, given = flags.read(["--recipe", name, *words])
    expected = make(given)
    assert fasttrain.Recipe.named(name, **asked) == expected
    assert Recipe(recipe=name, **asked) == expected
    assert Recipe(name, **asked) == expected
    for twin in (pickle.loads(pickle.dumps(expected)), copy.deepcopy(expected)):
        assert twin == expected
    assert replace(expected, seed=3) == Recipe.named(name, **asked, seed=3)


def test_no_name_stands_over_the_missions_content():
    sprint = Recipe(recipe="sprint")
    assert (sprint.model, sprint.filters, sprint.lr) == ("sprint", "muon", 0.16)
    assert (Recipe.named("reference").cutout, Recipe.named("resnet18")) == (16, Recipe())
    with pytest.raises(UsageError, match=r"--recipe \(nosuch\): must be one of"):
        Recipe.named("nosuch")
    with pytest.raises(TypeError, match="epoch"):
        Recipe.named("sprint", epoch=3)


def test_what_an_earlier_run_saved_is_read_as_it_was():
    plain = {name: field.default for name, field in FIELDS.items()}
    odd = {**plain, "recipe": "sprint", "model": "sprint", "momentum": 0.5}
    assert Recipe.saved(odd).as_dict() == odd
    del odd["border"], odd["test_flips"]  # a release that did not have them
    made = Recipe.saved(odd)
    assert (made.border, made.test_flips, made.momentum) == ("black", False, 0.5)
    assert Recipe(**odd).border == "reflect"  # the control


def test_a_run_of_a_named_recipe_with_other_fields_goes_on_and_keeps_its_name(tiny, tmp_path):
    asked = {**SMALL, "recipe": "reference", "epochs": 1}
    fasttrain.train(Recipe(**asked), out=tmp_path / "a")
    arguments = ["--resume", str(tmp_path / "a"), "--override", "--epochs", "2"]
    assert cli.main(arguments) == 0
    saved = json.loads((tmp_path / "a" / "recipe.json").read_text())
    assert saved == Recipe(**{**asked, "epochs": 2}).as_dict()


def test_another_name_is_refused_with_override_too(tiny, tmp_path, capsys):
    fasttrain.train(small(epochs=1), out=tmp_path / "a")
    before = (tmp_path / "a" / "recipe.json").read_bytes()
    for name in ("sprint", "reference"):
        assert cli.main(["--resume", str(tmp_path / "a"), "--override", "--recipe", name]) == 2
        said = capsys.readouterr().err
        assert f"--recipe ({name}): the run to be resumed has resnet18" in said
        assert "start a new run with --out" in said
        assert "add --override" not in said
    assert (tmp_path / "a" / "recipe.json").read_bytes() == before


# --- zero is a value, none is one, too ------------------------------------------------------------

ROW = Epoch(1, 0.1, 1.0, 0.5, 1.0, 0.0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("target", "accuracy", "reached"),
    [(0, 0.0, True), (0.0, 0.3, True), (0.3, 0.3, True), (0.3, 0.2, False), (None, 1.0, False)],
)
def test_a_target_of_zero_is_reached_by_any_epoch_and_none_by_no_one(target, accuracy, reached):
    recipe = Recipe(target_accuracy=target)
    assert ending.enough(recipe, [ROW._replace(test_accuracy=accuracy)], 1.0) is reached
    assert ending.enough(recipe, [], 1.0) is False
    found = spread.sum_up([{"final_test_accuracy": accuracy}], target=target)
    assert ("reached" in found) is (target is not None)
    assert ("0 of 1 reached" in spread.describe(found)) is (target is not None)


@pytest.mark.parametrize(("flag", "epochs"), [("0", 1), ("none", 3), ("1", 3)])
def test_a_run_with_a_target_of_zero_stops_after_an_epoch(flag, epochs, tiny, tmp_path):
    words = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    out = tmp_path / "a"
    assert cli.main([*words, "--epochs=3", f"--target-accuracy={flag}", "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["epochs"] == epochs
    assert ("seconds_to_target" in summary) is (flag == "0")


def test_a_sprint_for_zero_is_the_smallest_and_for_no_target_the_usual_one():
    zero, none, usual = (
        Recipe.named("sprint", **asked)
        for asked in ({"target_accuracy": 0}, {"target_accuracy": None}, {})
    )
    assert (zero.widths, zero.target_accuracy) == ("32,64,192", 0)
    assert none == replace(usual, target_accuracy=None)


def test_none_is_written_where_a_number_may_be_left_out_and_nowhere_else():
    for name, field in FIELDS.items():
        if "low" not in field.metadata:
            continue
        if field.default is None:
            assert parse(name, "none") is None
        else:
            with pytest.raises(UsageError, match=r"\(none\): must be"):
                make({name: parse(name, "none")})
    assert parse("data_dir", "none") == "none"  # a folder may be called so
    assert "{FLOAT,none}" in flags.parser("train").format_help()


def test_a_resumed_run_can_be_taken_its_target(tiny, tmp_path):
    fasttrain.train(small(target_accuracy=0.0), out=tmp_path / "a")
    assert cli.main(["--resume", str(tmp_path / "a"), "--target-accuracy", "none"]) == 0
    assert len((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()) == 2


# --- docs/python.md -------------------------------------------------------------------------------

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    """Run the page's sections one after the other; return the names that each has left."""
    where, names, left = tmp_path_factory.mktemp("page"), {}, {}
    few = synthetic.load(256, 64)
    text = PAGE.read_text(encoding="utf-8").replace('"cuda"', '"cpu"').replace("=50,\n", "=2,\n")
    with tiny_runs.shrunk(), pytest.MonkeyPatch.context() as patches:
        patches.chdir(where)
        patches.setattr(sys, "path", list(sys.path))
        patches.setattr(cifar10, "load", lambda *_, **__: few)
        for section in text.split("\n## ")[1:]:
            for code in re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
                if file := re.match(r"# (\w+[.]py)\n", code):
                    (where / file[1]).write_text(code)
                exec(code, names)
            left[section.splitlines()[0]] = dict(names)
        yield left
    sys.modules.pop("my_nets", None)


def test_the_page_has_a_run_and_goes_on_with_it(sections):
    found = sections["The command as a function"]
    assert [row.epoch for row in found["rows"]] == [1, 2, 3, 4, 5, 6]
    assert found["sprint"] == make({"recipe": "sprint", "epochs": 3})


def test_the_page_trains_a_network_of_ones_own(sections):
    found = sections["Your own network"]
    assert len(found["rows"]) == 2
    assert found["step"].model is found["model"]
    assert found["model"](torch.zeros(2, 3, 32, 32)).shape == (2, 2)


def test_the_page_makes_loaders_of_ones_own_data(sections):
    found = sections["Your own data"]
    shown = torch.cat([labels for _, labels in found["test"]])
    assert torch.equal(shown, torch.from_numpy(found["labels"][500:]))
    assert len(list(found["train"])) == len(found["train"]) == 10


def test_the_pages_own_loader_can_be_entered_anywhere(sections):
    loader = sections["Your own data"]["Stripes"](batches=4, device="cpu")
    first, second = list(loader), list(loader)
    assert not torch.equal(first[0][0], second[0][0])
    loader.seek(1, 2)
    for one, two in zip(first[2:], loader, strict=True):
        assert all(map(torch.equal, one, two))


def test_the_pages_own_loss_is_the_one_that_is_trained_on(sections):
    found = sections["Your own loss"]
    images, labels = next(iter(found["test"]))
    step = Step(copy.deepcopy(found["model"]), found["optimizer"], loss=found["focal"])
    step.model.train()
    right = F.softmax(copy.deepcopy(step.model)(images), 1).gather(1, labels[:, None])[:, 0]
    by_hand = ((1 - right) ** 2 * -right.log()).mean()  # as the paper writes it
    torch.testing.assert_close(step(images, labels)[0], by_hand.detach())


def test_the_pages_own_hook_sees_every_epoch(sections, tiny, tmp_path, capsys):
    found = sections["Your own hook"]
    assert [row.epoch for row in found["rows"]] == [1, 2]
    assert found["rows"][-1].test_accuracy > 0.9  # stripes are easily told apart
    rows = fasttrain.train(small(), out=tmp_path / "a", on_epoch=[found["say"]])
    told = [f"epoch {row.epoch}: {row.test_accuracy:.1%} of the test images" for row in rows]
    assert capsys.readouterr().out.splitlines() == told


def test_the_page_makes_maps(sections):
    maps = sections["Grad-CAM"]["maps"]
    assert maps.shape == (8, 32, 32)
    assert float(maps.max()) == pytest.approx(1.0)


def test_every_name_of_the_pages_table_is_there():
    rows = re.findall(r"^\| `--.*", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) >= 9
    found = 0
    for row in rows:
        for named in re.findall(r"--(?:no-)?([a-z-]+)", row):
            assert named.replace("-", "_") in FIELDS, row
        modules = [*map(importlib.import_module, re.findall(r"`(fasttrain[.][\w.]+)`", row))]
        for name in re.findall(r"in_parts|clip_gradients|[A-Z]\w+Step\b|Plateau|WarmUp", row):
            assert any(hasattr(module, name) for module in modules), (name, row)
            found += 1
    assert found == 6
