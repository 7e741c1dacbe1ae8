"""best.pt, summary, report and TensorBoard name one epoch, also of a run that was taken back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tiny_runs import small

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.engine import evaluation, metrics
from fasttrain.errors import Stopped
from fasttrain.report import curves, html
from fasttrain.report.read import read
from fasttrain.run import ledger, observe, saving
from fasttrain.storage import checkpoint
from tests.run.test_train import Interrupting

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def scores(monkeypatch):
    """The test accuracies that the next epochs get, in their order."""
    coming: list[float] = []

    def scored(*args, **options):
        real(*args, **options)
        return metrics.Evaluation(1.0, coming.pop(0))

    real = evaluation.measure
    monkeypatch.setattr(evaluation, "measure", scored)
    return coming


def state(path: Path, name: str = "last") -> dict:
    return checkpoint.load(path / "checkpoints" / f"{name}.pt")


def points(path: Path) -> list[tuple[int, float]]:
    """All points of the test accuracy in the run's TensorBoard folder, in the order of files."""
    return [
        (event.step, round(value.tensor.float_val[0], 4))
        for file in sorted((path / "tensorboard").glob("events.*"))
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.tag == "test/accuracy"
    ]


def expect_one_epoch(path: Path, epoch: int, scores: list[float]) -> None:
    """Everything that a run keeps tells of these accuracies, and of this best epoch."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [row["test_accuracy"] for row in rows] == scores
    summary, run = json.loads((path / "summary.json").read_text()), read(path)
    assert (summary["best_epoch"], summary["best_test_accuracy"]) == (epoch, scores[epoch - 1])
    best = state(path, "best")
    assert (best["progress"], best["test_accuracy"]) == ([epoch, 0], scores[epoch - 1])
    assert run.best.epoch == epoch
    assert f"in epoch {epoch} of" in html.page(run)
    (ring,) = [line for line in curves.accuracy(run).axes[0].lines if line.get_marker() == "o"]
    assert ring.get_xdata()[0] == epoch
    assert points(path) == [(at, score) for at, score in enumerate(scores, 1)]


TIES = [([0.5, 0.5], 1), ([0.3, 0.6, 0.6], 2), ([0.6, 0.3, 0.6], 1), ([0.0, 0.0, 0.0], 1)]


@pytest.mark.parametrize(("given", "first"), [*TIES, ([0.3, 0.6, 0.7], 3)])
def test_of_equal_epochs_the_first_is_the_best_everywhere(given, first, scores, tmp_path):
    scores += given
    fasttrain.train(small(epochs=len(given)), out=tmp_path / "a")
    expect_one_epoch(tmp_path / "a", first, given)


@pytest.mark.parametrize(("given", "first"), TIES)
@pytest.mark.parametrize("at", [4, 6])
def test_also_where_the_run_was_stopped_in_between(given, first, at, scores, tmp_path):
    scores += given
    with pytest.raises(Stopped):
        fasttrain.train(small(epochs=len(given)), out=tmp_path / "a", display=Interrupting(at))
    scores[:] = given[state(tmp_path / "a")["progress"][0] :]
    fasttrain.train(small(epochs=len(given)), continued=tmp_path / "a")
    expect_one_epoch(tmp_path / "a", first, given)


def branched(path: Path, scores: list[float], *, before: list[float], back: int) -> Path:
    """A finished run of epochs that scored `before`; returns its checkpoint after epoch `back`."""
    copy = path / "checkpoints" / "kept.pt"
    scores += before
    fasttrain.train(small(epochs=back), out=path)
    shutil.copy(path / "checkpoints" / "last.pt", copy)
    fasttrain.train(small(epochs=len(before)), continued=path, override=True)
    return copy


# What is left behind was better, equal and worse than what comes; the best before it is there
# still or gone.
BRANCHES = [
    ([0.2, 0.9, 0.8, 0.9], 1, [0.2, 0.5, 0.6], 3),
    ([0.2, 0.9, 0.8, 0.9], 1, [0.2, 0.1], 1),
    ([0.7, 0.2, 0.1, 0.6], 2, [0.7, 0.2, 0.3], 1),
    ([0.7, 0.2, 0.9, 0.6], 2, [0.7, 0.2, 0.8], 3),
    ([0.7, 0.2, 0.9, 0.6], 2, [0.7, 0.2, 0.3], 3),  # the weights of epoch 1 are gone
    ([0.7, 0.2, 0.9, 0.6], 2, [0.7, 0.2, 0.1], 2),
    ([0.2, 0.2, 0.9], 2, [0.2, 0.2], 2),  # nothing is left to train
]


@pytest.mark.parametrize(("before", "back", "after", "best"), BRANCHES)
def test_a_run_taken_back_keeps_nothing_of_what_it_left(
    before, back, after, best, scores, tmp_path, capsys
):
    path = tmp_path / "a"
    kept = branched(path, scores, before=before, back=back)
    left = state(path)
    scores[:] = after[back:]
    changes = ["--override", "--lr=0.01", f"--epochs={len(after)}"]
    assert cli.main(["--resume", str(kept), *changes]) == 0
    said = capsys.readouterr().out
    expect_one_epoch(path, best, after)
    aside = checkpoint.load(path / "checkpoints" / "last.pt.abandoned")
    assert aside["run"]["history"] == left["run"]["history"]
    for name in ("last", "previous"):
        file = path / "checkpoints" / f"{name}.pt"
        if file.exists():
            rows = checkpoint.load(file)["run"]["history"]
            assert [row[5] for row in rows] == after[: len(rows)], name
    gone = before.index(max(before)) >= back and max(after[:back]) > after[back - 1]
    assert ("are gone: best.pt holds" in said) == gone


def test_a_run_taken_back_and_killed_at_once_goes_on_from_where_it_was_taken(
    scores, tmp_path, monkeypatch
):
    path = tmp_path / "a"
    kept = branched(path, scores, before=[0.2, 0.9, 0.8], back=1)
    scores[:] = [0.5, 0.4]
    with pytest.raises(Stopped):
        fasttrain.train(small(), continued=kept, override=True, display=Interrupting(1))
    assert state(path)["progress"][0] == 1
    fasttrain.train(small(), continued=path)
    expect_one_epoch(path, 2, [0.2, 0.5])


def test_going_on_from_the_newest_checkpoint_leaves_everything_where_it_is(scores, tmp_path):
    path = tmp_path / "a"
    scores += [0.5, 0.6, 0.4]
    fasttrain.train(small(epochs=2), out=path)
    fasttrain.train(small(epochs=3), continued=path / "checkpoints" / "last.pt", override=True)
    expect_one_epoch(path, 2, [0.5, 0.6, 0.4])
    assert not list((path / "checkpoints").glob("*.abandoned"))


@pytest.mark.parametrize("lost", ["missing", "damaged"])
def test_a_best_checkpoint_that_is_lost_is_made_anew_by_going_on(lost, scores, tmp_path):
    path = tmp_path / "a"
    scores += [0.5, 0.6, 0.4]
    fasttrain.train(small(epochs=2), out=path)
    best = path / "checkpoints" / "best.pt"
    best.unlink() if lost == "missing" else best.write_bytes(best.read_bytes()[:-100])
    fasttrain.train(small(epochs=3), continued=path, override=True)
    expect_one_epoch(path, 2, [0.5, 0.6, 0.4])


@pytest.mark.parametrize("where", ["save_last", "save_best", "append_epoch", "write"])
def test_a_run_killed_around_the_save_of_its_best_epoch_names_one_epoch(
    where, scores, tmp_path, monkeypatch
):
    """Killed before or after each thing that an epoch writes; the next epoch is worse."""

    class Killed(BaseException):
        pass

    def dying(self, *args):
        raise Killed

    path = tmp_path / "a"
    scores += [0.5, 0.6]
    home = {"append_epoch": saving.RunDir, "write": observe}.get(where, checkpoint.Checkpoints)
    name = "scalars" if where == "write" else where
    fasttrain.train(small(epochs=1), out=path)
    with monkeypatch.context() as patches:
        if where == "write":
            patches.setattr(home, name, lambda *args: _Dying(dying))
        else:
            patches.setattr(home, name, dying)
        with pytest.raises(Killed):
            fasttrain.train(small(), continued=path, override=True)
    done = state(path)["progress"][0]
    scores[:] = [0.6, 0.4][done - 1 :]
    fasttrain.train(small(epochs=3), continued=path, override=True)
    expect_one_epoch(path, 2, [0.5, 0.6, 0.4])


class _Dying:
    def __init__(self, write):
        self.write = write

    def __enter__(self):
        return self.write

    def __exit__(self, *exc):
        pass


def test_other_peoples_points_in_the_folder_stay(scores, tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    path = tmp_path / "a"
    kept = branched(path, scores, before=[0.2, 0.9], back=1)
    with SummaryWriter(str(path / "tensorboard")) as theirs:
        theirs.add_scalar("mine", 7.0, 5000)
    scores[:] = [0.5]
    fasttrain.train(small(), continued=kept, override=True)
    expect_one_epoch(path, 2, [0.2, 0.5])
    events = [
        e for f in (path / "tensorboard").glob("events.*") for e in EventFileLoader(str(f)).Load()
    ]
    assert [e.step for e in events for v in e.summary.value if v.tag == "mine"] == [5000]


def test_what_was_said_of_an_earlier_network_goes_when_the_run_goes_on(scores, tmp_path):
    """The mistakes and maps of a best epoch that may no longer be the best."""
    path = tmp_path / "a"
    scores += [0.2, 0.9]
    fasttrain.train(small(epochs=1), out=path)
    about = ["misclassified.json", "class_accuracy.json", "analysis.npz", "figures/loss.png"]
    for name in about:
        (path / name).write_text("{}")
    mine = path / "figures" / "notes.txt"
    mine.write_text("a person's own")
    with pytest.raises(Stopped):
        fasttrain.train(small(), continued=path, override=True, display=Interrupting(1))
    assert [name for name in about if (path / name).exists()] == []
    assert mine.exists()


def test_the_summary_of_a_history_alone_names_the_first_of_the_best():
    row = {"seconds": 1.0, "images_per_second": 1.0, "data_wait_seconds": 0.0}
    rows = [{**row, "epoch": i, "test_accuracy": a} for i, a in enumerate([0.1, 0.4, 0.4], 1)]
    model, where = torch.nn.Linear(1, 1), {"gemm_rates": [1e9]}
    assert ledger.summarise(rows, model, **where)["best_epoch"] == 2
    assert ledger.summarise(rows, model, **where, best_epoch=1)["best_test_accuracy"] == 0.1
