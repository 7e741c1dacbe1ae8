"""Runs, checkpoints and a series that release 0.1 wrote are still read and resumed.

tests/release_0_1 holds what 0.1 itself wrote, with the sprint's network at 4 channels, 12 images
and 4 steps an epoch: `interrupted` and `plateau` (--lr auto --scheduler plateau) were stopped by
SIGTERM at the second step of their last epoch, `series` (--runs 1) is finished and its seed-0 is
`interrupted` left alone. Left out are images in files and pages, previous.pt and TensorBoard's
files.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from fasttrain.cli import main as cli
from fasttrain.recipe.recipe import Recipe
from fasttrain.run import resume
from fasttrain.storage import checkpoint
from tests.run.test_resume_rules import everything
from tests.storage.test_checkpoint import flip

OLD = Path(__file__).parents[1] / "release_0_1"
# Measured: bitwise equal on the kind of CPU that made these runs. Another kind has other vector
# instructions and sums in another order, which changes the last bits of float32 in each step.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
MEASURED = ("epoch", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy")


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """A copy of what release 0.1 left, as the working directory."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    for run in ("interrupted", "plateau", "series/seed-0"):
        (tmp_path / run / ".lock").touch()  # 0.1 left it there, empty
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path: Path) -> list[list[float]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [[row[name] for name in MEASURED] for row in found]


def weights(path: Path) -> torch.Tensor:
    """All weights and buffers of a checkpoint in one vector."""
    state = checkpoint.load(path / "checkpoints" / "last.pt")
    return torch.cat([each.flatten().double() for each in state["step"]["model"].values()])


def fails(capsys, code: int, *command: str) -> str:
    """Run a command that must exit with `code` and one line on stderr; return that line."""
    assert cli.main(list(command)) == code
    err = capsys.readouterr().err
    assert err.startswith("fasttrain: error: ")
    assert err.count("\n") == 1
    return err


GIVEN = ("widths", "dataset", "train_limit", "test_limit", "batch_size", "device", "amp", "loader")
WHOLE = {"interrupted": "series/seed-0/metrics.jsonl", "plateau": "plateau_whole.jsonl"}


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", WHOLE)
def test_an_interrupted_run_ends_with_the_numbers_of_one_left_alone(name, runs, capsys):
    before = rows(runs / name / "metrics.jsonl")
    whole = rows(runs / WHOLE[name])
    assert len(before) == len(whole) - 1  # the control: it was stopped in its last epoch
    assert cli.main(["--resume", name]) == 0
    assert f"resuming {name} after epoch {len(before)}, step 2" in capsys.readouterr().out
    assert rows(runs / name / "metrics.jsonl") == [pytest.approx(row, rel=1e-4) for row in whole]
    summary = json.loads((runs / name / "summary.json").read_text())
    best = checkpoint.load(runs / name / "checkpoints" / "best.pt")
    assert summary["finished"]
    assert best["progress"] == [summary["best_epoch"], 0]
    assert best["test_accuracy"] == max(row[-1] for row in rows(runs / name / "metrics.jsonl"))
    assert not list(runs.rglob("*.abandoned"))


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("named", ["interrupted", "interrupted/checkpoints/last.pt"])
def test_an_interrupted_run_ends_with_the_weights_of_one_left_alone(named, runs):
    whole, before = weights(runs / "series" / "seed-0"), weights(runs / "interrupted")
    assert not torch.allclose(before, whole, rtol=1e-4, atol=1e-3)  # the control
    assert cli.main(["--resume", named]) == 0
    torch.testing.assert_close(weights(runs / "interrupted"), whole, **CLOSE)


@pytest.mark.parametrize("name", ["series/seed-0", "series"])
def test_a_finished_one_is_called_so_and_left_alone(name, runs, capsys):
    before = everything(runs)
    assert cli.main(["--resume", name]) == 0
    assert capsys.readouterr().out == f"{name} is finished: nothing to do.\n"
    assert everything(runs) == before


@pytest.mark.parametrize("name", WHOLE)
def test_a_checkpoint_without_the_newer_fields_is_of_the_same_recipe(name):
    state = checkpoint.load(OLD / name / "checkpoints" / "last.pt")
    saved = Recipe.saved(json.loads((OLD / name / "recipe.json").read_text()))
    assert saved.as_dict() != state["recipe"]  # the control: today's recipe has fields more
    assert not resume.is_changed(state, saved)
    other = Recipe.saved({**state["recipe"], "epochs": 9})
    assert resume.is_changed(state, other)


@pytest.mark.usefixtures("tiny")
def test_a_finished_run_goes_on_to_more_epochs_with_override_alone(runs, capsys):
    assert "--override" in fails(capsys, 2, "--resume", "series/seed-0", "--epochs", "3")
    before = rows(runs / "series" / "seed-0" / "metrics.jsonl")
    assert cli.main(["--resume", "series/seed-0", "--override", "--epochs", "3"]) == 0
    after = rows(runs / "series" / "seed-0" / "metrics.jsonl")
    assert after[:2] == before
    assert [row[0] for row in after] == [1, 2, 3]
    assert json.loads((runs / "series" / "seed-0" / "recipe.json").read_text())["epochs"] == 3


def test_report_and_compare_read_what_is_there(runs, capsys):
    assert cli.main(["report", "series/seed-0"]) == 0
    page = (runs / "series" / "seed-0" / "report.html").read_text()
    assert "50.00 %" in page
    assert "data:image/png" in page
    assert cli.main(["compare", "series/seed-0", "interrupted", "plateau"]) == 0
    out = capsys.readouterr().out
    best = next(line for line in out.splitlines() if line.startswith("best test accuracy"))
    assert best.split()[3::2] == ["50.00", "50.00", "33.33"]
    assert "hang_timeout" not in out
    assert (runs / "compare.html").exists()


def test_compare_gives_a_field_that_0_1_did_not_know_its_default(runs, capsys):
    shutil.copytree(runs / "interrupted", runs / "new")
    file = runs / "new" / "recipe.json"
    saved = Recipe.saved(json.loads(file.read_text()))
    file.write_text(json.dumps(saved.as_dict()))
    assert cli.main(["compare", "interrupted", "new"]) == 0
    assert "note: the recipes are the same" in capsys.readouterr().out
    file.write_text(json.dumps({**saved.as_dict(), "hang_timeout": 5.0}))
    assert cli.main(["compare", "interrupted", "new"]) == 0
    line = next(s for s in capsys.readouterr().out.splitlines() if s.startswith("hang_timeout"))
    assert line.split() == ["hang_timeout", "300", "5"]


def test_explain_makes_the_same_of_the_best_network(runs, capsys):
    run = runs / "series" / "seed-0"
    before = json.loads((run / "class_accuracy.json").read_text())
    for name in ("analysis.npz", "class_accuracy.json", "misclassified.json"):
        (run / name).unlink()
    assert cli.main(["explain", "series/seed-0"]) == 0
    after = json.loads((run / "class_accuracy.json").read_text())
    assert after["confusion"] == before["confusion"]
    assert (run / "analysis.npz").exists()
    assert (run / "figures" / "gradcam_predicted.png").exists()


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("seed", ["series/seed-0", "interrupted"])
def test_an_unfinished_series_of_0_1_needs_the_number_of_its_runs(seed, runs, capsys):
    """Release 0.1 wrote series.json only at a series' end."""
    (runs / seed).rename(runs / "kept")
    shutil.rmtree(runs / "series")
    (runs / "series").mkdir()
    (runs / "kept").rename(runs / "series" / "seed-0")
    before = everything(runs)
    assert "how many runs? Add --runs" in fails(capsys, 2, "--resume", "series")
    assert everything(runs) == before
    assert cli.main(["--resume", "series", "--runs", "2"]) == 0
    found = json.loads((runs / "series" / "series.json").read_text())
    assert [row["seed"] for row in found["runs"]] == [0, 1]
    assert found["count"] == 2


@pytest.mark.usefixtures("tiny")
def test_a_finished_series_of_0_1_goes_on_to_more_runs(runs):
    first = everything(runs / "series" / "seed-0")
    assert cli.main(["--resume", "series", "--runs", "2"]) == 0
    assert everything(runs / "series" / "seed-0") == first
    found = json.loads((runs / "series" / "series.json").read_text())
    assert [row["seed"] for row in found["runs"]] == [0, 1]


BROKEN = {
    "one bit is wrong": flip,
    "its end is missing": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "it is empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("name", ["interrupted", "plateau", "series/seed-0"])
def test_a_broken_checkpoint_is_refused(name, how, runs, capsys):
    BROKEN[how](runs / name / "checkpoints" / "last.pt")
    before = everything(runs / name / "checkpoints")
    assert "no valid checkpoint" in fails(capsys, 5, "--resume", name)
    assert everything(runs / name / "checkpoints") == before


@pytest.mark.parametrize("how", BROKEN)
def test_a_network_is_not_explained_from_a_broken_checkpoint(how, runs, capsys):
    BROKEN[how](runs / "series" / "seed-0" / "checkpoints" / "best.pt")
    fails(capsys, 5, "explain", "series/seed-0")


@pytest.mark.usefixtures("tiny")
def test_a_run_is_replaced_with_overwrite_alone(runs, capsys):
    saved = Recipe.saved(json.loads((runs / "plateau" / "recipe.json").read_text()))
    words = [f"--{name.replace('_', '-')}={getattr(saved, name)}" for name in GIVEN]
    command = ["--recipe", "sprint", *words, "--epochs", "1", "--out", "plateau"]
    before = everything(runs)
    fails(capsys, 6, *command)
    assert everything(runs) == before
    assert cli.main([*command, "--overwrite"]) == 0
    assert not (runs / "plateau" / "lr_finder.json").exists()
    assert len(rows(runs / "plateau" / "metrics.jsonl")) == 1
