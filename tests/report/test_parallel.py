"""Many runs: a row each, in the order asked for, and a picture of what differs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fixture_run import change, put, write_run

from fasttrain.cli import main as cli
from fasttrain.report import compare as compare_module
from fasttrain.report import parallel
from fasttrain.report.compare import compare, differences, write_page
from fasttrain.report.ordered import ordered
from fasttrain.report.read import read
from tests.report.test_compare import cells

FIELDS = {
    "lr": ["auto", 0.1, 0.01, 0.3, 0.02, 0.1, 0.05],
    "batch_size": [128, 256, 512, 64, 128, 1024, 256],
    "weight_decay": [5e-4, 0.0, 1e-3, 5e-4, 5e-3, 5e-5, 5e-4],
    "scheduler": ["plateau", "cosine", "cosine", "linear", "onecycle", "cosine", "linear"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of seven runs, one of them of a series, of different recipes and lengths."""
    root = tmp_path_factory.mktemp("runs")
    for i in range(7):
        name = f"run-{i + 4}" if i else "series/seed-0"
        changes = {field: values[i] for field, values in FIELDS.items()}
        write_run(root / name, epochs=2 + i % 3, seed=i, pace=2 + i % 4, mistakes=1, **changes)
    return root


def runs(folder: Path):
    return [read(folder / name) for name in ("series/seed-0", *(f"run-{i}" for i in range(5, 11)))]


def best(run) -> float:
    return run.best.test_accuracy


def test_they_are_sorted_by_what_was_asked_and_a_run_without_it_comes_last(folder, tmp_path):
    found = runs(folder)
    put(tmp_path, "recipe.json", {"recipe": "resnet18", "epochs": 3, "lr": None})
    empty = read(tmp_path)
    shuffled = [empty, *found[3:], *found[:3]]
    names = [run.name for run in ordered(shuffled, "name")]
    assert names[:6] == ["run-5", "run-6", "run-7", "run-8", "run-9", "run-10"]
    assert ordered(shuffled, "accuracy")[:-1] == sorted(shuffled[1:], key=best, reverse=True)
    seconds = [run.summary["train_seconds"] for run in ordered(shuffled, "seconds")[:-1]]
    assert seconds == sorted(seconds)
    for by in ("accuracy", "seconds", "lr"):
        assert ordered(shuffled, by)[-1] is empty
    rates = [run.recipe["lr"] for run in ordered(shuffled, "lr")[:-1]]
    assert rates == [0.01, 0.02, 0.05, 0.1, 0.1, 0.3, "auto"]


def test_a_folder_stands_for_all_runs_in_it_with_a_row_for_each(folder, tmp_path, capsys):
    (folder / "notes").mkdir(exist_ok=True)
    out = str(tmp_path / "page.html")
    assert cli.main(["compare", str(folder), "--out", out, "--sort", "accuracy"]) == 0
    said = capsys.readouterr().out
    found = ordered(runs(folder), "accuracy")
    shown = cells(said)
    assert [name for name in shown if re.match("run|seed", name)] == [run.name for run in found]
    head = re.split(r"\s{2,}", said.splitlines()[0].strip())
    for run in found:
        values = dict(zip(head, shown[run.name], strict=True))
        assert values["best test accuracy"] == f"{100 * best(run):.2f} %"
        assert values["scheduler"] == run.recipe["scheduler"]
    rows = re.findall(r'<tr><th scope="row">((?:run|seed)-\d+)</th>', Path(out).read_text())
    assert rows == [run.name for run in found]


def test_what_has_no_epoch_or_is_damaged_is_left_out_of_a_folder_and_said(folder, capsys, tmp_path):
    root = tmp_path / "runs"
    for name in ("a", "b", "c", "d"):
        write_run(root / name, epochs=2, mistakes=1)
    (root / "c" / "metrics.jsonl").write_text("")
    (root / "d" / "summary.json").write_text("{")
    out = str(tmp_path / "page.html")
    assert cli.main(["compare", str(root), str(root / "a"), "--out", out]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("a b "), "a run that is named twice is one"
    assert f"left out: {root / 'c'}: no epoch has ended" in said
    assert f"left out: summary.json ({root / 'd' / 'summary.json'}): cannot be read" in said
    assert cli.main(["compare", str(root), str(root / "d"), "--out", out]) == 5
    assert cli.main(["compare", str(root / "a"), "--out", out]) == 2
    (tmp_path / "empty").mkdir()
    assert cli.main(["compare", str(tmp_path / "empty"), "--out", out]) == 5


@pytest.mark.parametrize(
    ("by", "said"), [("acuracy", "Did you mean accuracy?"), ("batch-sise", "mean batch_size?")]
)
def test_a_misspelt_order_is_answered_with_the_nearest(by, said, capsys):
    assert cli.main(["compare", "a", "b", "--sort", by]) == 2
    assert said in capsys.readouterr().err


def paths(svg: str) -> dict[str, list[tuple[float, float]]]:
    """The points of each run's line, by its name."""
    found = re.findall(r"<title>([^:]+): [^<]*</title><path class=\"near\" d=\"M([^\"]+)\"", svg)
    return {
        name: [tuple(map(float, point.split())) for point in points.split("L")]
        for name, points in found
    }


def test_each_line_passes_its_values_and_ends_at_its_accuracy(folder):
    found = runs(folder)
    differing = [name for name, _ in differences(found)]
    svg = parallel.drawing(found, differing)
    axes = re.findall(r'<text class="name" x="([\d.]+)" y="\d+">([^<]+)</text>', svg)
    assert [name for _, name in axes] == [*differing, "best test accuracy"]
    lines = paths(svg)
    assert set(lines) == {run.name for run in found}
    across = [float(x) for x, _ in axes]
    for run in found:
        assert [x for x, _ in lines[run.name]] == across

    def heights(place: int) -> list[float]:
        return [lines[run.name][place][1] for run in found]

    sizes = FIELDS["batch_size"]
    at = differing.index("batch_size")
    assert [sizes[i] for i in by_height(heights(at))] == sorted(sizes)
    decays = FIELDS["weight_decay"]
    at = differing.index("weight_decay")
    assert [decays[i] for i in by_height(heights(at))] == sorted(decays)
    accuracies = [best(run) for run in found]
    assert [accuracies[i] for i in by_height(heights(-1))] == sorted(accuracies)
    bottom, top = max(heights(-1)), min(heights(-1))
    low, high = min(accuracies), max(accuracies)
    for accuracy, height in zip(accuracies, heights(-1), strict=True):
        part = (accuracy - low) / (high - low)
        assert height == pytest.approx(bottom + part * (top - bottom), abs=0.2)
    names = [name for name, points in lines.items() if points[-1][1] == top]
    assert re.findall(r'class="known best"[^>]*><title>([^:]+):', svg) == names


def by_height(heights: list[float]) -> list[int]:
    """The places in a list, the lowest on the page first."""
    return sorted(range(len(heights)), key=lambda i: -heights[i])


def test_values_far_apart_are_on_a_logarithmic_axis(folder):
    found = runs(folder)
    svg = parallel.drawing(found, ["batch_size"])
    first = {run.recipe["batch_size"]: paths(svg)[run.name][0][1] for run in found}
    assert first[512] - first[1024] == pytest.approx(first[64] - first[128], abs=0.3)


def test_a_run_without_an_accuracy_ends_before_the_last_axis_and_none_breaks_it(folder, tmp_path):
    put(tmp_path, "recipe.json", {"recipe": "resnet18", "epochs": 3, "batch_size": 32})
    found = [*runs(folder)[:3], read(tmp_path)]
    lines = paths(parallel.drawing(found, ["batch_size", "lr"]))
    assert [len(points) for points in lines.values()].count(2) == 1
    assert len(lines[found[-1].name]) == 2


def test_of_more_runs_than_an_eye_can_follow_the_curves_are_those_of_the_best(folder, tmp_path):
    found = [*runs(folder), *runs(folder)]
    text = write_page(found, tmp_path / "page.html").read_text()
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', text)[1])
    drawn = [series["name"] for series in charts["test_accuracy"]["series"]]
    wanted = [str(run.path) for run in ordered(found, "accuracy")[: compare_module.CURVES]]
    assert drawn == wanted
    assert "The 12 best runs. Point at a curve" in text
    assert text.count('<tr><th scope="row">') == len(found)


def test_names_of_fields_and_values_are_text_in_the_picture(folder, tmp_path):
    hostile = '</svg><script>x</script>"'
    others = [write_run(tmp_path / name, epochs=1, mistakes=1) for name in "abc"]
    change(others[0], "recipe.json", **{"dataset": hostile, hostile: 1})
    text = write_page(others, tmp_path / "page.html").read_text()
    assert 'class="parallel"' in text
    assert "<script>x" not in text
    assert "&lt;/svg&gt;" in text


def test_two_runs_or_equal_recipes_have_no_picture(folder, tmp_path):
    assert parallel.drawing(runs(folder)[:2], ["lr"]) == ""
    same = [write_run(tmp_path / name, epochs=1, mistakes=1) for name in "abc"]
    assert 'class="parallel"' not in write_page(same, tmp_path / "page.html").read_text()
    assert "note: the recipes are the same" in compare(same)


def test_more_fields_than_have_room_are_said_to_be_in_the_table(folder):
    many = [f"field_{i}" for i in range(parallel.MOST + 2)]
    svg = parallel.drawing(runs(folder), many)
    assert "2 more fields differ: see the table." in svg
    assert svg.count('class="axis"') == parallel.MOST + 1
