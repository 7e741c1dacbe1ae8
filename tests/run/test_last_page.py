"""The report of a finished training: of its last summary, in its own style, at no risk to it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
import tiny_runs
from fixture_run import write_run

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.errors import OutputError
from fasttrain.explain import explain
from fasttrain.report import figures, html
from fasttrain.report.figures import draw_all
from fasttrain.report.words import duration
from fasttrain.run import finish, folders, profiling

WORDS = "--dataset synthetic --train-limit 48 --test-limit 32 --batch-size 16 --device cpu "
WORDS += "--loader resident --epochs 2 --lr 0.05"


@pytest.fixture
def tiny_with_report(monkeypatch):
    tiny_runs.shrink(monkeypatch, report=True)
    few = {name: figures.FIGURES[name] for name in ("accuracy", "lr", "ledger")}
    monkeypatch.setattr(figures, "FIGURES", few)


def drawn(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in [*path.glob("figures/*.png")]} | {
        "page": (path / "report.html").read_bytes()
    }


@pytest.mark.usefixtures("tiny_with_report")
def test_the_page_of_a_finished_run_is_the_one_that_report_draws(tmp_path, capsys):
    path = tmp_path / "a"
    assert cli.main([*WORDS.split(), "--out", str(path)]) == 0
    said, before = capsys.readouterr().out, drawn(path)
    summary, page = json.loads((path / "summary.json").read_text()), before["page"].decode()
    assert summary["finished"] is True
    assert '<th scope="row">finished</th><td>yes</td>' in page
    assert duration(summary["total_seconds"]) in page
    assert f'<th scope="row">total_seconds</th><td>{summary["total_seconds"]:.6g}</td>' in page
    parts = json.loads((path / "summary.json").read_text())["ledger"]
    assert f'<th scope="row">ledger.analysis</th><td>{parts["analysis"]:.6g}</td>' in page
    assert parts["analysis"] > 0.1, "the figures are in it"
    assert said.count("report: ") == 1
    assert cli.main(["report", str(path)]) == 0
    assert drawn(path) == before, "the page and each figure, byte for byte"


def broken(error):
    def task(*args, **options):
        raise error

    return task


# What fails while the report is drawn, and the command that is then named.
FAULTS = {
    "a figure": (figures, "draw_all", ValueError("not a valid value for backend"), "explain"),
    "a full disk": (figures, "draw_all", OutputError("report (x): no room. Make room."), "explain"),
    "the examination": (explain, "explain", MemoryError(), "explain"),
    "a fault of ours": (finish, "open_run", AssertionError("two\nlines"), "explain"),
    "the page": (html, "write", RecursionError("too deep"), "report"),
    "the profile": (profiling.Profiling, "report", KeyError("ts"), "record it again"),
}


@pytest.mark.usefixtures("tiny_with_report")
@pytest.mark.parametrize("name", FAULTS)
def test_no_fault_of_the_report_makes_a_failed_training(name, tmp_path, monkeypatch, capsys):
    home, task, error, advice = FAULTS[name]
    path = tmp_path / "a run"
    with monkeypatch.context() as patches:
        patches.setattr(home, task, broken(error))
        assert cli.main([*WORDS.split(), "--profile", "--out", str(path)]) == 0
    out, err = capsys.readouterr()
    warnings = [line for line in out.splitlines() if line.startswith("fasttrain: warning: ")]
    assert warnings
    assert "Traceback" not in out + err
    assert type(error).__name__ in warnings[0] or str(error) in warnings[0]
    assert "best test accuracy" in out.splitlines()[-1]
    assert json.loads((path / "summary.json").read_text())["finished"] is True
    if advice == "record it again":
        assert advice in warnings[0]
        assert folders.is_complete(path)
        return
    command = warnings[0].partition("draw its report with: python -m fasttrain ")[2]
    assert shlex.split(command) == [advice, str(path)]
    assert cli.main(shlex.split(command)) == 0, "the advice, word for word"
    assert folders.is_complete(path)
    assert (path / "analysis.npz").exists()


@pytest.mark.usefixtures("tiny_with_report")
def test_python_is_warned_where_it_shows_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(html, "write", broken(ValueError("too deep.")))
    with pytest.warns(UserWarning, match=r"ValueError: too deep\. .* fasttrain report"):
        rows = fasttrain.train(tiny_runs.small(epochs=1), out=tmp_path / "a")
    assert len(rows) == 1


DRAW = "from pathlib import Path; from fasttrain.report.figures import draw_all; import sys, os; "
DRAW += "draw_all(Path(sys.argv[1]), names=('loss', 'lr', 'confusion')); import matplotlib; "
DRAW += "print(os.environ.get('MPLBACKEND'), 'matplotlib.pyplot' in sys.modules)"
RC = "text.usetex: True\nfigure.dpi: 31\nsavefig.dpi: 44\nsavefig.bbox: tight\n"
RC += "path.sketch: 1, 9, 2\n"
RC += "lines.linewidth: 9\naxes.titlesize: 40\nxtick.labelsize: 30\nsavefig.transparent: True\n"
SETTINGS = {
    "a notebook's": ("module://matplotlib_inline.backend_inline", ""),
    "wrong ones": ("nosuch", RC),
    "a window's": ("TkAgg", RC),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What is drawn where nobody has settings."""
    return drawn_by_itself(tmp_path_factory.mktemp("plain"), {})


def drawn_by_itself(folder: Path, settings: dict[str, str]) -> dict[str, bytes]:
    run = write_run(folder / "run")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MPLB")} | settings
    done = subprocess.run(
        [sys.executable, "-c", DRAW, str(run)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [settings.get("MPLBACKEND", "None"), "False"]
    return {file.name: file.read_bytes() for file in run.glob("figures/*.png")}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_figures_are_the_same_whatever_a_persons_settings_say(name, plain, tmp_path):
    backend, rc = SETTINGS[name]
    (tmp_path / "matplotlibrc").write_text(rc)
    there = {"MPLBACKEND": backend, "MATPLOTLIBRC": str(tmp_path)}
    assert drawn_by_itself(tmp_path, there) == plain
    assert len(plain) == 3


def test_settings_of_the_same_process_neither_reach_the_figures_nor_are_lost(plain, tmp_path):
    run = write_run(tmp_path / "run")
    mine = {"text.usetex": True, "savefig.bbox": "tight", "lines.linewidth": 9.0}
    with matplotlib.rc_context(mine):
        draw_all(run, names=("loss", "lr", "confusion"))
        assert {key: matplotlib.rcParams[key] for key in mine} == mine
    assert {file.name: file.read_bytes() for file in run.glob("figures/*.png")} == plain
