"""Several runs of one recipe: every one is listed, and the sums are those of statistics."""

import json
import os
import signal
from pathlib import Path
from statistics import mean, stdev

import pytest
import tiny_runs
from processes import one_line

from fasttrain.cli import main as cli
from fasttrain.cli import repeat, spread
from fasttrain.cli.flags import read
from fasttrain.console.console import Display
from fasttrain.engine.step import Step
from fasttrain.errors import Diverged, UsageError
from fasttrain.recipe.recipe import Recipe
from fasttrain.run import folders, lock
from tests.run.test_resume_rules import everything

ROWS = [
    {"seed": 0, "final_test_accuracy": 0.90, "seconds_to_target": 10.0},
    {"seed": 1, "final_test_accuracy": 0.87},
    {"seed": 2, "final_test_accuracy": 0.91, "seconds_to_target": 14.0},
]


def test_mean_spread_and_share_are_over_all_runs_and_times_over_those_that_arrived():
    found = spread.sum_up(ROWS, target=0.88)
    accuracies = [row["final_test_accuracy"] for row in ROWS]
    assert found["accuracy_mean"] == pytest.approx(mean(accuracies))
    assert found["accuracy_deviation"] == pytest.approx(stdev(accuracies))
    assert (found["count"], found["reached"], found["seconds_mean"]) == (3, 2, 12.0)
    assert "2 of 3 reached 88.00%, in 12.0 s" in spread.describe(found)


def test_a_series_that_never_arrives_has_no_time():
    found = spread.sum_up(ROWS[1:2], target=0.88)
    assert (found["reached"], found["seconds_mean"]) == (0, None)
    assert spread.describe(found).endswith("0 of 1 reached 88.00%")


def test_without_a_target_there_is_only_the_accuracy():
    assert "reached" not in spread.describe(spread.sum_up(ROWS, target=None))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"final_test_accuracy": 0.5}, "1 runs: final test accuracy 50.00%"),
        ({"final_val_accuracy": 0.5}, "1 runs: final val accuracy 50.00%"),
        ({"final_val_accuracy": 0.9, "test_accuracy": 0.5}, "test accuracy of the best epoch 50"),
    ],
)
def test_a_series_names_the_images_that_its_accuracy_is_of(row, said):
    assert said in spread.describe(spread.sum_up([row], target=None))


def test_each_run_gets_its_own_seed_and_folder_and_those_there_are_gone_on_with(
    tmp_path, monkeypatch
):
    started = []

    def train(recipe, *, out, continued, begun, **rest):
        started.append((recipe.seed, out.name, continued))
        begun()
        out.mkdir(exist_ok=True)
        (out / "recipe.json").write_text('{"recipe": "resnet18", "epochs": 50}')
        row = {"final_test_accuracy": 0.5 + recipe.seed / 100, "ledger": {}}
        (out / "summary.json").write_text(json.dumps(row))

    monkeypatch.setattr(repeat, "train", train)
    path = tmp_path / "ser"
    repeat.train_runs(Recipe(seed=3), 2, out=path)
    repeat.train_runs(Recipe(seed=3), 3, continued=path, display=Display())
    again = [(n, f"seed-{n}", path / f"seed-{n}") for n in (3, 4)]
    fresh = [(n, f"seed-{n}", None) for n in (3, 4)]
    assert started == [*fresh, *again, (5, "seed-5", None)]
    kept = json.loads((path / "series.json").read_text())
    assert [row["seed"] for row in kept["runs"]] == [3, 4, 5]
    assert "ledger" not in kept["runs"][0]
    assert kept["environment"]["torch"]


WORDS = [f"--{name.replace('_', '-')}={value}" for name, value in tiny_runs.SMALL.items()]


@pytest.fixture
def half(tmp_path, tiny, monkeypatch, capsys):
    """A series of three, stopped by a signal in its second run."""
    monkeypatch.chdir(tmp_path)
    path, real, seen = tmp_path / "runs" / "ser", Step.__call__, []

    def counted(self, *args):
        seen.append(1)
        if len(seen) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *args)

    with monkeypatch.context() as patches:
        patches.setattr(Step, "__call__", counted)
        assert cli.main([*WORDS, "--runs=3", "--seed=5", "--out", str(path)]) == 143
    said = one_line(capsys.readouterr().err)
    assert said.endswith(f"saved. Resume with: python -m fasttrain --resume {path}")
    assert [each.name for each in folders.seeds(path)] == ["seed-5", "seed-6"]
    return path


WAYS = [
    ["--resume"],
    ["--resume", "runs/ser"],
    ["--resume", "--out", "runs/ser"],
    [*WORDS, "--runs=3", "--seed=5", "--resume", "runs/ser"],
    [*WORDS, "--runs=3", "--seed=5", "--resume"],
]


@pytest.mark.parametrize("words", WAYS, ids=lambda words: " ".join(words[-3:]))
def test_an_interrupted_series_is_resumed_in_any_way_that_a_run_is(words, half, capsys):
    first = everything(half / "seed-5")
    assert cli.main(words) == 0
    assert "3 runs: final test accuracy" in capsys.readouterr().out
    assert everything(half / "seed-5") == first, "what was done is left alone"
    kept = json.loads((half / "series.json").read_text())
    assert [row["seed"] for row in kept["runs"]] == [5, 6, 7]
    assert sorted(os.listdir(half.parent)) == ["ser"]
    for seed in (5, 6, 7):
        tiny_runs.train(half.parent / "alone" / str(seed), seed=seed)
        alone = tiny_runs.end(half.parent / "alone" / str(seed))
        assert tiny_runs.same(tiny_runs.end(half / f"seed-{seed}"), alone)
    before = everything(half)
    assert cli.main(["--resume", "runs/ser"]) == 0
    assert capsys.readouterr().out == "runs/ser is finished: nothing to do.\n"
    assert everything(half) == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["--out", "runs/ser", "--runs=3"],
            6,
            "already holds a series (1 of 3 runs). Use --resume",
        ),
        (["--out", "runs/ser"], 6, "already holds a series (1 of 3 runs). Use --resume"),
        (["--out", "runs/ser", "--overwrite"], 6, "holds a series (1 of 3 runs). Choose another"),
        (["--resume", "runs/ser", "--momentum=0.5"], 2, "--momentum (0.5): the run to be resumed"),
        (["--resume", "runs/ser", "--seed=6"], 2, "--seed (6): the run to be resumed has 5"),
        (["--resume", "runs/ser", "--runs=2"], 2, "--runs (2): the series to be resumed has 3"),
        (["--resume", "runs/ser/seed-5", "--runs=2"], 2, "--runs (2): "),
        (["--resume", "runs/nothing", "--runs=2"], 2, "--runs (2): runs/nothing is no series"),
        (["--out", "runs/b", "--runs=2", "--seed=4294967295"], 2, "the last seed is 4294967296"),
        (["--runs=2", "--override"], 2, "--override: goes with --resume"),
    ],
)
def test_a_series_is_refused_before_anything_is_trained(words, code, said, half, capsys):
    before = everything(half.parent)
    assert cli.main([*(WORDS if "--resume" not in words else []), *words]) == code
    assert said in one_line(capsys.readouterr().err)
    after = everything(half.parent)
    assert {k: v for k, v in after.items() if ".lock" not in k and Path(k).is_file()} == {
        k: v for k, v in before.items() if ".lock" not in k and Path(k).is_file()
    }


def test_a_foreign_file_in_a_later_seeds_folder_is_said_before_the_first_trains(half, capsys):
    (half / "seed-7").mkdir()
    (half / "seed-7" / "notes.txt").write_text("mine")
    assert cli.main(["--resume"]) == 6
    assert "holds files but no run" in one_line(capsys.readouterr().err)
    assert len(folders.read_epochs(half / "seed-6")[0]) == 0


def test_a_series_in_use_names_the_holder(half, capsys):
    held = lock.acquire(half)
    for words in (["--resume"], [*WORDS, "--runs=3", "--out", "runs/ser"]):
        assert cli.main(words) == 6
        assert f"is in use by pid {os.getpid()}" in one_line(capsys.readouterr().err)
    lock.release(held)


def test_with_override_and_profile_every_run_of_a_series_gets_them(half):
    given = ["--override", "--momentum=0.5", "--runs=4", "--profile"]
    assert cli.main(["--resume", "runs/ser", *given]) == 0
    found = [
        json.loads((run / "recipe.json").read_text())["momentum"] for run in folders.seeds(half)
    ]
    assert found[1:] == [0.5, 0.5, 0.5]
    assert all((run / "profile.txt").exists() for run in folders.seeds(half)[1:])
    assert json.loads((half / "series.json").read_text())["asked"] == 4


def test_a_series_that_is_replaced_loses_its_runs_once_the_new_one_begins(half, capsys):
    words = [*WORDS, "--runs=2", "--seed=6", "--overwrite", "--out", "runs/ser"]
    before = everything(half / "seed-5")
    assert cli.main([*words, "--batch-size=49"]) == 2
    assert everything(half / "seed-5") == before
    assert len(folders.series_of(half)["runs"]) == 1
    assert cli.main(words) == 0
    assert [row["seed"] for row in folders.series_of(half)["runs"]] == [6, 7]
    assert not folders.read_recipe(half / "seed-5")


@pytest.mark.parametrize("words", [["--batch-size=49"], ["--optimizer=apex"], ["--lr=1000"]])
def test_a_series_whose_first_run_fails_leaves_nothing(words, tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if words == ["--lr=1000"]:
        monkeypatch.setattr(Step, "__call__", diverge)
    for place in (["--out", "ser"], []):
        assert cli.main([*WORDS, *words, "--runs=2", *place]) in (2, 3, 7)
        assert [path for path in tmp_path.rglob("*") if path.name != "runs"] == []
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)


def diverge(*args):
    raise Diverged("--lr (1000): no. Try a lower one.")


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "٣", "10000"])
def test_a_number_of_runs_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match=r"--runs"):
        read(["--runs", text])


def test_three_runs_are_read_as_three():
    assert read(["--runs", "3"])[1].runs == 3
