"""Page and figures show the learning rate of every step exactly."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from fixture_run import write_run
from tiny_runs import small

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.engine import step
from fasttrain.errors import Stopped
from fasttrain.report import charts, curves, html, overlaid
from fasttrain.report.rates import first, rates
from fasttrain.report.read import read
from fasttrain.report.words import rate
from tests.run.test_train import Interrupting

pytestmark = pytest.mark.usefixtures("tiny")
STEPS = 12  # of an epoch: 48 images in batches of 4
STARTS = {"plateau": 0.05, "linear": 0.05, "cosine": 0.05, "onecycle": 0.05 / 25}


@pytest.fixture
def taken(monkeypatch):
    """Return the rate of each training step, in order."""
    seen: list[float] = []

    def noted(self, *args):
        seen.append(float(self.lr))
        return real(self, *args)

    real = step.Step.__call__
    monkeypatch.setattr(step.Step, "__call__", noted)
    return seen


def fact(page: str, name: str) -> str:
    return re.search(rf"{name}</dt>\s*<dd>([^<]*)<", page)[1]


def expect(path, taken: list[float]) -> None:
    """Figure, page and comparison draw the rates of the steps."""
    run = read(path)
    drawn = rates(run)
    places = (np.arange(len(taken)) + (0.5 if drawn.stairs else 0)) / STEPS
    found = [drawn.at(place) for place in places]
    np.testing.assert_allclose(found, taken, rtol=0.05, atol=0.01 * max(taken))
    assert first(run) == pytest.approx(taken[0])
    page = html.page(run)
    assert fact(page, "First learning rate") == rate(taken[0])
    figure, chart = curves.lr(run), charts.curves(run)["lr"]
    line = figure.axes[0].lines[0]
    np.testing.assert_allclose(chart["x"]["values"], line.get_xdata(), atol=1e-3)
    np.testing.assert_allclose(chart["series"][0]["values"], line.get_ydata())
    assert chart["series"][0]["step"] == (line.get_drawstyle() == "steps-pre") == drawn.stairs
    written = [*figure.texts, *figure.axes[0].texts, figure.axes[0].title]
    assert any(f"starts at {rate(taken[0])}" in text.get_text() for text in written)
    falls = [mark["x"] for mark in chart["marks"] if mark["style"] == "fall"]
    assert falls == [other.get_xdata()[0] for other in figure.axes[0].lines[1:]]
    both = overlaid.curves([run, run])["lr"]
    assert both["series"][0]["values"] == pytest.approx(chart["series"][0]["values"], rel=0.01)


@pytest.mark.parametrize("scheduler", STARTS)
@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_the_rate_is_drawn_as_it_was(scheduler, epochs, taken, tmp_path):
    recipe = small(scheduler=scheduler, epochs=epochs, batch_size=4, patience=0, threshold=1.0)
    fasttrain.train(recipe, out=tmp_path / "a")
    assert taken[0] == pytest.approx(STARTS[scheduler])
    expect(tmp_path / "a", taken)


@pytest.mark.parametrize("scheduler", STARTS)
def test_a_warm_up_is_drawn_as_it_was(scheduler, taken, tmp_path):
    changes = {"epochs": 4, "batch_size": 4, "patience": 0, "threshold": 1.0, "warmup": 1.4}
    fasttrain.train(small(scheduler=scheduler, **changes), out=tmp_path / "a")
    warm = round(1.4 * STEPS)
    assert taken[0] == pytest.approx(STARTS[scheduler] / (warm + 1))
    assert taken[warm] == pytest.approx(STARTS[scheduler], rel=1e-3)
    expect(tmp_path / "a", taken)


@pytest.mark.parametrize("scheduler", STARTS)
def test_also_where_another_rate_and_end_went_on(scheduler, taken, tmp_path):
    path, changes = tmp_path / "a", {"scheduler": scheduler, "batch_size": 4}
    with pytest.raises(Stopped):  # in the middle of the second epoch
        fasttrain.train(small(epochs=4, **changes), out=path, display=Interrupting(20))
    fasttrain.train(small(epochs=3, lr=0.02, **changes), continued=path, override=True)
    run, before = read(path), taken[:STEPS]
    assert len(taken) == 3 * STEPS
    assert first(run) == pytest.approx(before[0]), "not the recipe's, which is another by now"
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [row["first_lr"] for row in rows] == pytest.approx(taken[::STEPS])
    assert [row["lr"] for row in rows] == pytest.approx(taken[STEPS - 1 :: STEPS])
    drawn = rates(run)
    whole = [drawn.at((at + (0.5 if drawn.stairs else 0)) / STEPS) for at in (0, 11, 24, 35)]
    assert whole == pytest.approx([taken[at] for at in (0, 11, 24, 35)], rel=0.05)


@pytest.mark.parametrize("scheduler", ["plateau", "linear", "onecycle"])
def test_a_rate_that_was_found_is_the_sweeps(scheduler, tmp_path, capsys):
    words = "--dataset synthetic --train-limit 48 --test-limit 32 --batch-size 16 --device cpu"
    more = ["--loader=resident", "--epochs=1", f"--scheduler={scheduler}"]
    assert cli.main([*words.split(), *more, "--lr=auto", "--out", str(tmp_path / "a")]) == 0
    found = json.loads((tmp_path / "a" / "lr_finder.json").read_text())["suggestion"]
    start = found / 25 if scheduler == "onecycle" else found
    assert fact(html.page(read(tmp_path / "a")), "First learning rate") == rate(start)


OLDER = [
    ("linear", 0.16, 0.16, lambda e: 0.16 * (1 - e / 8)),
    ("cosine", 0.1, 0.1, lambda e: 0.05 * (1 + np.cos(np.pi * e / 8))),
    ("onecycle", 0.5, 0.02, lambda e: 0.5 * (1 - e / 8)),
]


@pytest.mark.parametrize(("scheduler", "lr", "start", "curve"), OLDER)
def test_a_run_of_the_first_release_starts_at_its_recipes_rate(
    scheduler, lr, start, curve, tmp_path
):
    """Its rows have only the rate of each epoch's last step."""
    path = write_run(tmp_path / "old", epochs=8, scheduler=scheduler)
    recipe = json.loads((path / "recipe.json").read_text()) | {"lr": lr}
    (path / "recipe.json").write_text(json.dumps(recipe))
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    rows = [row | {"lr": max(curve(row["epoch"]), 1e-4)} for row in rows]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = read(path)
    assert first(run) == pytest.approx(start)
    assert rates(run).at(4) == pytest.approx(curve(4), rel=0.02)
    assert fact(html.page(run), "First learning rate") == rate(start)
