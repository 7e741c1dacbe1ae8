"""A file gives the fields of a recipe as its flags would, and `recipe` prints such a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fasttrain.cli import config
from fasttrain.cli import main as cli
from fasttrain.cli.asked import asked
from fasttrain.cli.flags import read
from fasttrain.cli.recipe import as_toml
from fasttrain.errors import UsageError
from fasttrain.parallel.launch import Place
from fasttrain.recipe.fields import check
from fasttrain.recipe.recipe import FIELDS, RECIPES, Recipe, make

TEXTS = ["layer3.1", 'a "quoted" name', "C:\\new\\table", "M\u00fcll/\U0001f600", "none", "# no"]


def put(folder: Path, text: str | bytes, name: str = "a.toml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(capsys, *arguments: object) -> str:
    """The one line on stderr of a command line that is refused."""
    assert cli.main([str(each) for each in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fasttrain: error: ")
    assert err.count("\n") == 1
    return err


def values(field) -> st.SearchStrategy:
    """What a field may be, as a Recipe keeps it: paths absolute where its flag makes them so."""
    facts = field.metadata
    empty = [None] if field.default is None else []
    if "choices" in facts:
        return st.sampled_from(facts["choices"])
    if "low" in facts:
        numbers = st.integers if isinstance(facts["low"], int) else st.floats
        words = st.sampled_from([*facts["also"], *empty, field.default])
        return words | numbers(facts["low"], facts["high"])
    if isinstance(field.default, bool):
        return st.booleans()
    if field.name in ("dataset", "cache_dir"):
        return st.sampled_from([field.default, *map(os.path.abspath, TEXTS)])
    return st.sampled_from([field.default, *filter(fits(field), [*TEXTS, "nets:make", "8,8,8"])])


def fits(field):
    def allowed(value: object) -> bool:
        try:
            check(field, value)
        except UsageError:
            return False
        return True

    return allowed


def possible(fields: dict) -> bool:
    """Whether the fields go together."""
    try:
        make(fields)
    except UsageError:
        return False
    return True


some = st.fixed_dictionaries({}, optional={name: values(f) for name, f in FIELDS.items()})
recipes = some.filter(possible).map(make)


def again(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe that the printed one gives, read as a file."""
    return make(config.read(put(folder, as_toml(recipe))))


@pytest.mark.parametrize("name", RECIPES)
def test_a_printed_recipe_is_a_config_that_gives_the_same_recipe(name, tmp_path):
    assert again(Recipe.named(name), tmp_path) == Recipe.named(name)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(recipes)
def test_so_is_any_recipe(tmp_path, recipe):
    assert again(recipe, tmp_path) == recipe


def test_no_named_recipe_sets_a_text_that_others_lack():
    """A text without a value is printed as a comment, which is then the named recipe's value."""
    lacking = {n for n, f in FIELDS.items() if f.default is None and "low" not in f.metadata}
    for name in RECIPES:
        assert all(getattr(Recipe.named(name), field) is None for field in lacking)


def test_each_field_stands_below_its_help_its_range_and_its_default():
    blocks = as_toml(Recipe()).split("\n\n")
    assert as_toml(Recipe()).isascii()
    for name, field in FIELDS.items():
        (block,) = [
            b for b in blocks if b.splitlines()[-1].startswith((f"{name} =", f"# {name} ="))
        ]
        said = " ".join(line.removeprefix("# ") for line in block.splitlines()[:-1])
        assert field.metadata["help"] in said
        assert f"default: {'none' if field.default is None else field.default}".lower() in said
        if "low" in field.metadata:
            assert f"from {field.metadata['low']:g} to {field.metadata['high']:.10g}" in said
        assert all(choice in said for choice in field.metadata.get("choices", ()))


def test_a_flag_wins_over_the_file_and_the_file_over_the_named_recipe(tmp_path):
    file = put(tmp_path, 'recipe = "sprint"\nepochs = 3\nlr = 1\ntrain_limit = "none"\n')
    found = make(read(["--config", str(file), "--epochs", "5"])[2])
    assert (found.recipe, found.epochs, found.lr) == ("sprint", 5, 1.0)
    assert isinstance(found.lr, float)
    assert found.batch_size == Recipe.named("sprint").batch_size
    other = make(read(["--recipe", "finetune", "--config", str(file)])[2])
    assert (other.recipe, other.epochs, other.lr) == ("finetune", 3, 1.0)
    assert other.scheduler == Recipe.named("finetune").scheduler


@pytest.mark.parametrize("command", ["train", "find-lr", "data", "doctor", "recipe"])
def test_every_command_of_a_recipe_takes_a_file(command, tmp_path):
    file = put(tmp_path, '{"momentum": 0.5, "train_limit": null}', "a.json")
    assert read([command, "--config", str(file)])[2] == {"momentum": 0.5, "train_limit": None}


def test_paths_in_a_file_are_those_of_flags(tmp_path):
    file = put(tmp_path, 'dataset = "photos"\ncache_dir = "kept"\ndata_dir = "x"\n')
    flags = ["--dataset", "photos", "--cache-dir", "kept", "--data-dir", "x"]
    assert config.read(file) == read(flags)[2]


def test_a_runs_own_recipe_is_a_config(tmp_path):
    recipe = Recipe.named("sprint", epochs=3, train_limit=48)
    kept = recipe.as_dict() | {"model_sha256": "0" * 64}
    assert make(config.read(put(tmp_path, json.dumps(kept), "recipe.json"))) == recipe


def test_the_recipe_of_an_earlier_release_means_what_it_meant_there(tmp_path):
    kept = Recipe.named("sprint").as_dict()
    for newer in ("limits", "monitor"):
        del kept[newer]
    found = make(config.read(put(tmp_path, json.dumps(kept), "recipe.json")))
    assert found.limits == "first"
    assert found == Recipe.saved(kept)


def test_a_resumed_run_takes_what_the_file_changes_and_its_own_for_the_rest(tmp_path):
    put(tmp_path, json.dumps(Recipe(epochs=7, lr=0.3).as_dict()), "recipe.json")
    file = put(tmp_path, "max_time = 5\n")
    _, options, changes = read(["--config", str(file), "--resume", str(tmp_path)])
    found = make(asked(options, changes, Place(0, 1, 0, 1)).given)
    assert (found.epochs, found.lr, found.max_time) == (7, 0.3, 5.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch = 5", "epoch is no field of a recipe. Did you mean epochs?"),
        ("batch-size = 5", "batch-size is no field of a recipe. Did you mean batch_size?"),
        ("[augmentation]\nflip = 0.5", "augmentation is no field of a recipe. "),
        ("epochs = 0", "--epochs (0): must be a whole number from 1 to 100000. See --help."),
        ('epochs = "5"', "--epochs (5): must be a whole number"),
        ("epochs = 5.0", "--epochs (5.0): must be a whole number"),
        ("epochs = true", "--epochs (True): must be a whole number"),
        ('epochs = "none"', "--epochs (none): must be a whole number"),
        ("epochs = [5]", "--epochs ([5]): must be a whole number"),
        ("epochs = 2026-11-26", "--epochs (2026-11-26): must be a whole number"),
        (f"epochs = 0x{'f' * 5000}", "epochs is too large a number"),
        ("lr = nan", "--lr (nan): must be a finite number"),
        ("freeze = 1", "--freeze (1): must be true or false"),
        ('scheduler = "cosin"', "Did you mean cosine?"),
        ("[scheduler]", "--scheduler ({}): must be one of plateau"),
        ("widths = [8, 8, 8]", "--widths ([8, 8, 8]): must be a non-empty line of text"),
        ('dataset = "cifar1"', "--dataset (cifar1): neither the name of a data set nor a path"),
        ('data_dir = ""', "--data-dir (): must be a non-empty line of text"),
        ("epochs 5", "is not TOML: Expected '=' after a key"),
        ("epochs = 1\nepochs = 2", "is not TOML: Cannot overwrite a value"),
        (b"\xff\xfe", "is not UTF-8 text. Save it as UTF-8."),
        ("x = " + "[" * 100_000, "is not TOML"),
        ("#" * 2_000_000, "has over 1,048,576 bytes"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_mistake_in_a_file_is_the_fields_own_error_with_the_file(text, said, tmp_path, capsys):
    file = put(tmp_path, text)
    err = refused(capsys, "--config", file)
    assert f"--config ({file}): " in err
    assert said in err
    assert len(err) < 500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"epochs": null}', "--epochs (None): must be a whole number"),
        ('{"epohcs": 5}', "Did you mean epochs?"),
        ("[]", "is not a JSON object"),
        ("{", "is not JSON: Expecting property name"),
        ("[" * 100_000, "is not JSON"),
        (f'{{"epochs": {"1" * 5000}}}', "is not JSON: Exceeds the limit"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_so_is_one_in_json(text, said, tmp_path, capsys):
    err = refused(capsys, "--config", put(tmp_path, text, "a.json"))
    assert said in err


def test_what_is_no_file_is_refused_at_once(tmp_path, capsys):
    assert "cannot be read: No such file" in refused(capsys, "--config", tmp_path / "missing.toml")
    assert "that of a run is its recipe.json" in refused(capsys, "--config", tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "is not a file" in refused(capsys, "--config", tmp_path / "pipe")


def test_a_mark_at_the_beginning_as_of_windows_is_no_part_of_the_text(tmp_path):
    assert config.read(put(tmp_path, b"\xef\xbb\xbfepochs = 3\r\n")) == {"epochs": 3}


ALONE = """
import sys
from fasttrain.cli import main
try:
    status = main.main(sys.argv[1:])
except SystemExit as end:
    status = end.code
heavy = {"torch", "numpy", "rich", "matplotlib"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else status)
"""


@pytest.mark.parametrize("command", ["recipe --recipe sprint", "runs", "--help", "--help all"])
def test_what_answers_at_once_imports_nothing_heavy(command):
    ran = [sys.executable, "-c", ALONE, *command.split()]
    done = subprocess.run(ran, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == as_toml(Recipe.named("sprint")) or "recipe" not in command


def test_a_printed_recipe_is_never_cut_short_silently(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    with open("/dev/full", "w") as full:
        ran = [sys.executable, "-m", "fasttrain", "recipe"]
        done = subprocess.run(ran, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 6
    assert "standard output: No space left on device" in done.stderr
