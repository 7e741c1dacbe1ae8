from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from fixture_run import put, write_run

from fasttrain.cli import main as cli
from fasttrain.errors import CheckpointError, UsageError
from fasttrain.report.compare import compare, write_page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [
        write_run(root / "first", epochs=6),
        write_run(root / "second", epochs=4, seed=1, lr=0.1, batch_size=512),
    ]


def cells(text: str) -> dict[str, list[str]]:
    """Return the rows of the table: a name, and values separated by two blanks or more."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()]
    return {name: values for name, *values in rows}


def summaries(runs: list[Path]) -> list[dict]:
    return [json.loads((run / "summary.json").read_text()) for run in runs]


def test_the_table_holds_what_came_out(runs):
    shown, found = cells(compare(runs)), summaries(runs)
    assert compare(runs).splitlines()[0].split() == ["first", "second"]
    assert shown["best test accuracy"] == [f"{100 * s['best_test_accuracy']:.2f} %" for s in found]
    assert shown["final test accuracy"] == [
        f"{100 * s['final_test_accuracy']:.2f} %" for s in found
    ]
    assert shown["in epoch"] == [str(s["best_epoch"]) for s in found]
    assert shown["total seconds"] == [f"{s['total_seconds']:.1f}" for s in found]
    assert shown["images/s"] == [f"{s['images_per_second']:,.0f}" for s in found]


def test_the_table_holds_those_fields_of_the_recipes_that_differ(runs):
    shown = cells(compare(runs))
    assert shown["lr"] == ["auto", "0.1"]
    assert shown["batch_size"] == ["128", "512"]
    assert shown["epochs"] == ["6", "4"]
    assert "momentum" not in shown


def test_runs_judged_by_different_splits_say_by_which(runs, tmp_path):
    val = write_run(tmp_path / "third", epochs=4)
    put(val, "summary.json", {**summaries([val])[0], "chosen_by": "val"})
    shown = cells(compare([runs[0], val]))
    assert shown["held-out images"] == ["test", "val"]
    assert "best held-out accuracy" in shown
    assert "best val accuracy" in cells(compare([val, val]))


def test_the_columns_are_aligned(runs):
    lengths = {len(line) for line in compare(runs).splitlines()}
    assert len(lengths) == 1


def test_equal_recipes_are_called_so(tmp_path):
    runs = [write_run(tmp_path / name, epochs=2) for name in "ab"]
    assert "note: the recipes are the same" in compare(runs)


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    runs = [write_run(tmp_path / name / "run", epochs=1) for name in "ab"]
    assert compare(runs).split()[:2] == [str(run) for run in runs]


def test_an_unfinished_run_is_compared_by_what_it_has(runs, tmp_path):
    put(tmp_path, "recipe.json", {"recipe": "resnet18", "epochs": 50})
    shown = cells(compare([runs[0], tmp_path]))
    assert shown["best test accuracy"][1] == shown["images/s"][1] == "–"
    assert shown["epochs done"] == ["6", "0"]
    assert f"note: {tmp_path.name}: this run is not finished" in compare([runs[0], tmp_path])
    write_page([runs[0], tmp_path], tmp_path / "compare.html")


def test_the_page_lays_the_curves_over_each_other(runs, tmp_path):
    text = write_page(runs, tmp_path / "new" / "compare.html").read_text()
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', text)[1])
    assert list(charts) == ["test_accuracy", "time", "train_loss", "test_loss", "lr"]
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in runs
    ]
    first, second = charts["test_accuracy"]["series"]
    assert charts["test_accuracy"]["x"]["values"] == [1, 2, 3, 4, 5, 6]
    assert first["values"] == [row["test_accuracy"] for row in rows[0]]
    assert second["values"] == [row["test_accuracy"] for row in rows[1]] + [None, None]
    assert (first["name"], second["name"]) == ("first", "second")
    assert first["style"] != second["style"]
    time = charts["time"]["series"][1]
    assert [v for v in time["values"] if v is not None] == [r["test_accuracy"] for r in rows[1]]
    moments = dict(zip(charts["time"]["x"]["values"], time["values"], strict=True))
    passed = sum(row["seconds"] for row in rows[1])
    assert moments[round(passed, 3)] == rows[1][-1]["test_accuracy"]
    for name, values in cells(compare(runs)).items():
        if name in ("best test accuracy", "lr", "images/s"):
            line = re.search(rf'<th scope="row">{name}</th>(.*?)</tr>', text)[1]
            assert re.findall(r">([^<]+)</td>", line) == values


def test_what_is_no_run_and_what_is_alone_cannot_be_compared(runs, tmp_path):
    with pytest.raises(UsageError, match="needs at least two"):
        compare(runs[:1])
    with pytest.raises(UsageError, match="does not exist"):
        compare([runs[0], tmp_path / "missing"])
    with pytest.raises(CheckpointError, match="is not a run of fasttrain"):
        write_page([runs[0], tmp_path], tmp_path / "compare.html")


def everything(root: Path) -> dict[str, bytes | str]:
    return {
        str(path): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize(
    "out",
    [
        *("a/recipe.json", "a/metrics.jsonl", "a/report.html", "a/new.json", "a/profile.txt"),
        *("a/checkpoints/last.pt", "a/checkpoints/new.html", "a", "folder", "folder/linked.html"),
        *("mine.html", "empty.html", "notes.txt", "link.html", "dangling.html", "pipe"),
    ],
)
def test_a_page_replaces_nothing_that_compare_did_not_draw(out, tmp_path, capsys):
    for name in "ab":
        write_run(tmp_path / name, epochs=1)
    (tmp_path / "a" / "report.html").write_text("<title>a</title>")
    (tmp_path / "folder").mkdir()
    (tmp_path / "mine.html").write_text("<title>recipes of my aunt</title>")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "empty.html").touch()
    (tmp_path / "link.html").symlink_to(tmp_path / "a" / "recipe.json")
    (tmp_path / "folder" / "linked.html").symlink_to(tmp_path / "mine.html")
    (tmp_path / "dangling.html").symlink_to(tmp_path / "a" / "nothing.html")
    os.mkfifo(tmp_path / "pipe")
    before = everything(tmp_path)
    words = [str(tmp_path / name) for name in ("a", "b")]
    assert cli.main(["compare", *words, "--out", str(tmp_path / out)]) == 6
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(
        r"fasttrain: error: page \(.*\): is .*\. Choose another --out\.\n", shown.err
    )
    assert everything(tmp_path) == before


@pytest.mark.parametrize("out", ["new.html", "deep/new/page.html", "a/compare.html", "new"])
def test_its_own_page_it_draws_anew(out, tmp_path, capsys):
    for name in "ab":
        write_run(tmp_path / name, epochs=1)
    words = [*(str(tmp_path / name) for name in ("a", "b")), "--out", str(tmp_path / out)]
    assert cli.main(["compare", *words]) == 0
    drawn = (tmp_path / out).read_text()
    (tmp_path / out).write_text(drawn + "<!-- of before -->")
    assert cli.main(["compare", *words]) == 0
    assert (tmp_path / out).read_text() == drawn


@pytest.mark.parametrize("command", ["report", "explain"])
@pytest.mark.parametrize("what", ["a page", "a link", "linked figures"])
def test_a_report_replaces_nothing_that_is_not_its_runs(command, what, tmp_path, capsys):
    run, outside = write_run(tmp_path / "a", epochs=1), tmp_path / "outside"
    shutil.rmtree(run / "figures", ignore_errors=True)
    (run / "report.html").unlink(missing_ok=True)
    outside.mkdir()
    (outside / "loss.png").write_text("mine")
    (outside / "page.html").write_text("mine")
    if what == "linked figures":
        (run / "figures").symlink_to(outside)
    elif what == "a link":
        (run / "report.html").symlink_to(outside / "page.html")
    else:
        (run / "report.html").write_text("<title>mine</title>")
    before = everything(tmp_path)
    assert cli.main([command, str(run)]) == 6
    assert "ove it away." in capsys.readouterr().err
    assert everything(tmp_path) == before
