import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from fasttrain.cli.values import parse
from fasttrain.data import Split
from fasttrain.errors import UsageError
from fasttrain.loaders.build import training_draws
from fasttrain.recipe.pairs import ends
from fasttrain.recipe.recipe import FIELDS, LEVELS, RECIPES, Recipe, make


def test_the_default_is_the_mission():
    recipe = Recipe()
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.momentum) == (50, 128, "auto", 0.9)
    assert (recipe.scheduler, recipe.patience, recipe.threshold, recipe.factor) == (
        "plateau",
        3,
        0.001,
        0.1,
    )
    assert (recipe.crop_padding, recipe.flip, recipe.cutout_probability) == (4, 0.5, 1.0)


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_is_valid_and_survives_json(name):
    recipe = make({"recipe": name})
    assert Recipe(**json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_a_given_field_beats_the_named_recipe():
    assert make({"recipe": "reference"}).lr == 0.0534
    assert make({"recipe": "reference", "lr": 0.1}).lr == 0.1


def test_a_sprint_takes_the_first_level_that_is_not_below_its_target():
    asked = [level for level, _ in LEVELS]
    assert asked == sorted(asked)
    for target, fields in LEVELS:
        for wanted in (target, target - 0.001):
            made = make({"recipe": "sprint", "target_accuracy": wanted})
            assert {name: getattr(made, name) for name in fields} == fields
            assert made.target_accuracy == wanted
    beyond = make({"recipe": "sprint", "target_accuracy": 0.99})
    assert beyond.epochs == LEVELS[-1][1]["epochs"]
    assert make({"recipe": "sprint"}).target_accuracy == 0.9253
    assert make({"recipe": "sprint", "epochs": 3}).epochs == 3


@pytest.mark.parametrize("dataset", ["mnist", "cifar100", "photos", "photos/labels.csv"])
def test_a_sprint_on_other_images_does_not_stop_at_cifar10s_target(dataset):
    made = make({"recipe": "sprint", "dataset": dataset})
    assert made.target_accuracy is None
    assert made.widths == make({"recipe": "sprint"}).widths
    asked = make({"recipe": "sprint", "dataset": dataset, "target_accuracy": 0.88})
    assert (asked.target_accuracy, asked.epochs) == (0.88, 4)


@pytest.mark.parametrize("name", ["sprint", "modern"])
def test_a_recipe_without_flips_shows_no_mirrored_image(name):
    """Every other epoch would show all of them mirrored, and 2 is no mirrored 5."""
    still, flipped = (make({"recipe": name, "flip": chance}) for chance in (0, 0.5))
    split = Split(np.zeros((50, 32, 32, 3), np.uint8), np.zeros(50, np.int64))
    for epoch in (1, 2, 3):
        assert not training_draws(still, split)(epoch).flip.any()
        assert training_draws(flipped, split)(epoch).flip.any()
    assert not still.test_flips
    assert make({"recipe": name, "flip": 0, "test_flips": True}).test_flips
    old = Recipe.saved({**flipped.as_dict(), "flip": 0.0})
    assert old.alternate, "a run that was saved so goes on so"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("epochs", "0", "--epochs (0): must be a whole number from 1 to 100000"),
        ("epochs", "-5", "--epochs (-5)"),
        ("epochs", "5.5", "--epochs (5.5): must be a whole number"),
        ("epochs", "1" + "0" * 60, "must be a whole number from 1 to 100000"),
        ("lr", "nan", "--lr (nan): must be a finite number from 1e-08 to 1000, or auto"),
        ("lr", "inf", "--lr (inf)"),
        ("lr", "-0.1", "--lr (-0.1)"),
        ("batch_size", "60000", "--batch-size (60000): must be a whole number from 1 to 50000"),
        ("seed", "-1", "--seed (-1)"),
        ("flip", "1.5", "--flip (1.5): must be a finite number from 0 to 1"),
        ("amp", "fp8", "--amp (fp8): must be one of auto, bf16, fp16, off"),
        ("recipe", "nosuch", "--recipe (nosuch): must be one of"),
        ("rotate", "181", "--rotate (181.0): must be a finite number from 0 to 180"),
        ("brightness", "-0.1", "--brightness (-0.1): must be a finite number from 0 to 1"),
        ("contrast", "1.5", "--contrast (1.5)"),
        ("saturation", "nan", "--saturation (nan)"),
        ("zoom", "0.8,6", "--zoom (0.8,6): must be two numbers from 0.2 to 5, the lower first"),
        ("zoom", "1.2,0.8", "--zoom (1.2,0.8)"),
        ("zoom", "0.1,1", "--zoom (0.1,1)"),
        ("zoom", "0.8", "--zoom (0.8)"),
        ("zoom", "0.8,1,1.2", "--zoom (0.8,1,1.2)"),
        ("zoom", "nan,1", "--zoom (nan,1)"),
        ("zoom", "small,big", "--zoom (small,big)"),
        ("zoom", "", "--zoom ()"),
        ("widths", "64,256", "--widths (64,256): must look like INT,INT,INT"),
        ("widths", "64,0,256", "--widths (64,0,256)"),
        ("widths", "٦,64,64", "--widths"),
        ("data_dir", "", "--data-dir (): must be a non-empty line of text"),
        ("data_dir", "a\x00b", "--data-dir ('a\\x00b')"),
    ],
)
def test_a_bad_value_names_flag_value_and_range(name, text, why):
    with pytest.raises(UsageError) as caught:
        make({name: parse(name, text)})
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"warmup": 3, "epochs": 3}, r"--warmup \(3\): must end before the training does, .* 3"),
        ({"nesterov": True, "optimizer": "adamw"}, "--nesterov: is of SGD"),
        ({"nesterov": True, "momentum": 0.0}, "--nesterov: needs a --momentum above 0"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, why):
    for name, value in fields.items():
        make({name: value})  # the control: each is possible alone
    with pytest.raises(UsageError, match=why):
        make(fields)
    assert make({"warmup": 2.9, "epochs": 3}).warmup == 2.9


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"recipe": "spritn"}, "sprint"),
        ({"scheduler": "one-cycle"}, "onecycle"),
        ({"amp": "bfl6"}, "bf16"),
        ({"loader": "Dali"}, "dali"),
    ],
)
def test_python_names_the_nearest_choice_as_well(fields, meant):
    with pytest.raises(UsageError, match=rf"\): must be one of .*\. Did you mean {meant}\?$"):
        Recipe(**fields)


@pytest.mark.parametrize("value", [7, None, ["cosine"], "", "nosuch"])
def test_what_resembles_no_choice_is_sent_to_the_help(value):
    with pytest.raises(UsageError, match=r"must be one of .*\. See --help\.$"):
        Recipe(recipe=value)


def test_text_becomes_the_fields_type():
    assert parse("epochs", "7") == 7
    assert parse("lr", "auto") == "auto"
    assert parse("lr", "1e-2") == 0.01
    assert parse("seed", "12") == 12


@pytest.mark.parametrize(
    "zoom", ["0.8,1.25", "0.80, 1.250", (0.8, 1.25), [0.8, 1.25], np.array([0.8, 1.25])], ids=repr
)
def test_a_pair_is_kept_as_one_text_however_it_is_written(zoom):
    recipe = Recipe(zoom=parse("zoom", zoom) if isinstance(zoom, str) else zoom)
    assert recipe == Recipe(zoom="0.8,1.25")
    assert json.loads(json.dumps(recipe.as_dict()))["zoom"] == "0.8,1.25"
    assert ends(recipe.zoom) == (0.8, 1.25)


@pytest.mark.parametrize("zoom", [None, 1.0, True, (1,), (1, 2, 3), {"low": 1}, ("a", "b")])
def test_what_is_no_pair_is_refused_in_python_too(zoom):
    with pytest.raises(UsageError, match=r"--zoom \(.*\): must be two numbers"):
        Recipe(zoom=zoom)


def test_the_reference_rotates_by_7_degrees_but_a_run_of_release_0_1_goes_on_without():
    recipe = make({"recipe": "reference"})
    assert (recipe.rotate, recipe.zoom, recipe.border) == (7.0, "1,1", "black")
    new = ("rotate", "zoom", "brightness", "contrast", "saturation")
    old = {name: value for name, value in recipe.as_dict().items() if name not in new}
    assert Recipe.saved(old).rotate == 0.0
    assert Recipe.saved(recipe.as_dict()) == recipe  # the control


def test_every_field_says_what_it_is():
    for field in dataclasses.fields(Recipe):
        assert field.metadata["help"], field.name
        assert field.metadata["group"] in {
            "recipe",
            "augmentation",
            "data",
            "machine",
            "stopping",
        }
    assert list(FIELDS) == [field.name for field in dataclasses.fields(Recipe)]


def test_neither_recipe_nor_draws_imports_torch():
    code = (
        "import sys, fasttrain, fasttrain.recipe.recipe, fasttrain.loaders.draws;"
        "import fasttrain.cli.main;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
