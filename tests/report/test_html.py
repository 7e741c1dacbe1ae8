from __future__ import annotations

import base64
import io
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fixture_run import DROPS, NAMES, change, put, write_run
from PIL import Image

from fasttrain.errors import CheckpointError, OutputError, UsageError
from fasttrain.report.html import write
from fasttrain.report.page import columns, command_line, embedded
from fasttrain.report.tiles import overlay

VOID = {"meta", "link", "img", "br", "line", "circle"}
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"


class Page(HTMLParser):
    """A parsed page: its elements with attributes and text, and the elements left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, list[str]]] = []
        self.text = text
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        words: list[str] = []
        self.elements.append((tag, dict(attrs), words))
        if tag not in VOID:
            self.open.append((tag, words))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, words in self.open:
            words.append(data)

    def all(self, tag, **wanted):
        """Return (attributes, text) of the elements with these attributes."""
        return [
            (attributes, "".join(words))
            for name, attributes, words in self.elements
            if name == tag and wanted.items() <= attributes.items()
        ]

    def charts(self):
        ((_, text),) = self.all("script", id="charts")
        return json.loads(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(write(folder).read_text(encoding="utf-8"))


def rewritten(folder: Path) -> Page:
    return Page(write(folder).read_text(encoding="utf-8"))


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_page_is_one_whole_file_that_refers_to_nothing_outside(page):
    assert page.open == []
    assert page.text.startswith("<!DOCTYPE html>")
    for _, attributes, _ in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    outside = set(re.findall(r"[a-z]+://[^\s\"'<]+", page.text))
    assert outside == {"http://www.w3.org/2000/svg"}, "the name of SVG is no address"
    assert "@import" not in page.text
    assert "url(" not in page.text
    assert len(page.text.encode()) < 5 * 2**20


def test_the_page_can_be_read_by_everybody(page):
    assert page.all("html", lang="en")
    assert page.all("title")[0][1].strip()
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert all(attributes["alt"] for attributes, _ in page.all("img"))
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"][1:] for attributes, _ in page.all("a")}
    assert links <= set(ids)
    assert all(a.get("type") == "button" for a, _ in page.all("button"))


def test_the_headline_says_what_came_out_on_what_by_which_command(folder, page):
    best = max(row["test_accuracy"] for row in metrics(folder))
    assert page.all("strong")[0][1] == f"{100 * best:.2f} %"
    ((_, header),) = page.all("header")
    for said in ("NVIDIA H100", "python -m fasttrain --epochs 50", "8 min 28 s", "11,173,962"):
        assert said in header


def test_without_a_gpu_the_hardware_is_the_cpu_with_its_cores(tmp_path):
    folder = write_run(tmp_path / "run", epochs=1)
    change(folder, "environment.json", gpu=None)
    ((_, header),) = rewritten(folder).all("header")
    assert "Intel Xeon Platinum 8480C, 16 cores" in header
    assert "H100" not in header


def test_the_source_experiment_is_mentioned_only_where_it_can_be_compared(folder, page, tmp_path):
    final = 100 * metrics(folder)[-1]["test_accuracy"]
    said = f"this run ends at {final:.2f} %, {92.53 - final:.2f} points below it"
    assert said in page.text
    different: list[dict[str, object]] = [
        {"train_limit": 256},
        {"test_limit": 256},
        {"dataset": "synthetic"},
        {"recipe": "sprint"},
        {"model": "sprint"},
        {"target_accuracy": 0.9},
        {"max_time": 60.0},
    ]
    for i, changes in enumerate(different):
        other = write_run(tmp_path / str(i), mistakes=1, **changes)
        assert "92.53" not in rewritten(other).all("header")[0][1], changes
    for epochs in (2, 49, 60):
        other = write_run(tmp_path / f"{epochs} epochs", mistakes=1, epochs=epochs)
        assert "92.53" not in rewritten(other).all("header")[0][1], epochs
    assert "92.53" in rewritten(write_run(tmp_path / "same", mistakes=1, recipe="reference")).text


def test_the_charts_get_the_metrics(folder, page):
    rows, charts = metrics(folder), page.charts()
    assert list(charts) == ["accuracy", "loss", "gap", "lr", "range"]
    for what in ("accuracy", "loss"):
        for series in charts[what]["series"]:
            assert series["values"] == [row[f"{series['name']}_{what}"] for row in rows]
    assert charts["lr"]["x"]["values"] == [0, *(row["epoch"] for row in rows)]
    assert charts["lr"]["series"][0]["values"] == [rows[0]["lr"], *(row["lr"] for row in rows)]
    drops = [mark["x"] for mark in charts["loss"]["marks"]]
    assert drops == [drop - 1 for drop in DROPS], "epochs done when the rate falls"
    found = json.loads((folder / "lr_finder.json").read_text())
    assert charts["range"]["marks"][0]["x"] == found["suggestion"]
    assert charts["range"]["series"][1]["values"] == found["losses"]
    assert {a["data-chart"] for a, _ in page.all("div") if "data-chart" in a} == set(charts)


def test_the_numbers_are_there_without_javascript(folder, page):
    cells = [text for _, text in page.all("td")]
    for row in metrics(folder):
        assert f"{100 * row['test_accuracy']:.2f} %" in cells
    for row in json.loads((folder / "class_accuracy.json").read_text())["classes"]:
        assert f"{100 * row['accuracy']:.2f} %" in cells
    assert len(page.all("noscript")) == 1


def test_environment_recipe_and_summary_are_there_in_full(folder, page):
    text = " ".join(text for _, text in page.all("details"))
    for name in ("environment.json", "recipe.json", "summary.json"):
        for key in json.loads((folder / name).read_text()):
            assert key in text
    assert "ledger.range test" in text
    assert "gpu.memory_gib" in text


def pixels(attributes) -> np.ndarray:
    coded = attributes["src"].removeprefix("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(coded, validate=True))) as image:
        return np.array(image)


def test_each_tile_holds_its_image_and_both_maps(folder, page):
    with np.load(folder / "analysis.npz") as arrays:
        images, maps = arrays["images"], {k: arrays[f"{k}_maps"] for k in ("predicted", "true")}
    found = json.loads((folder / "misclassified.json").read_text())["images"]
    gallery = [attributes for attributes, _ in page.all("img")][: 3 * len(found)]
    for i, mistake in enumerate(found):
        image, predicted, true = gallery[3 * i : 3 * i + 3]
        np.testing.assert_array_equal(pixels(image), images[i])
        np.testing.assert_array_equal(pixels(predicted), overlay(images[i], maps["predicted"][i]))
        np.testing.assert_array_equal(pixels(true), overlay(images[i], maps["true"][i]))
        assert image["alt"] == f"test image {mistake['index']}, a {mistake['true']}"
        assert predicted["data-says"] == f"map: {mistake['predicted']}"
        assert true["data-says"] == f"map: {mistake['true']}"


def test_the_confusion_matrix_and_the_rivals_are_the_counts(folder, page):
    counts = np.array(json.loads((folder / "class_accuracy.json").read_text())["confusion"])
    matrix = page.text.split('<table class="confusion"')[1].split("</table>")[0]
    rows = re.findall(r"<tr><th scope=\"row\">(\w+)</th>(.*?)</tr>", matrix)
    assert [name for name, _ in rows] == list(NAMES)
    got = [
        [int(n.replace(",", "") or 0) for n in re.findall(r">([\d,]*)</td>", r)] for _, r in rows
    ]
    np.testing.assert_array_equal(got, counts)
    wrong = counts - np.diag(counts.diagonal())
    for i, name in enumerate(NAMES):
        rival = f"{NAMES[wrong[i].argmax()]} ({wrong[i].max()})"
        assert re.search(rf">{name}</th>.*?<td>{re.escape(rival)}</td>", page.text)


def test_no_string_of_a_run_becomes_markup(tmp_path):
    folder = write_run(tmp_path / "run", epochs=2, recipe=HOSTILE, dataset=HOSTILE)
    change(folder, "environment.json", command=HOSTILE, gpu=HOSTILE, date=HOSTILE)
    change(folder, "lr_finder.json", rule=HOSTILE, stopped=HOSTILE, notes=[HOSTILE])
    change(folder, "summary.json", ledger={HOSTILE: 3.0}, **{HOSTILE: HOSTILE})
    mistake = {"index": 1, "true": HOSTILE, "predicted": HOSTILE, "confidence": 0.9}
    change(folder, "misclassified.json", rule=HOSTILE, images=[mistake] * 25)
    row = {"name": HOSTILE, "count": 1, "correct": 1, "accuracy": 1, "low": 0.2, "high": 1}
    put(folder, "class_accuracy.json", {"classes": [row] * 2, "confusion": [[1, 3], [3, 1]]})
    page, clean = rewritten(folder), rewritten(write_run(tmp_path / "clean", epochs=2))
    assert page.open == []
    assert len(page.all("script")) == len(clean.all("script")) == 3
    for _, attributes, _ in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src") != "x"
    assert HOSTILE in page.all("header")[0][1], "it is shown as text"


def test_json_inside_a_script_cannot_end_it_and_knows_no_nan():
    text = embedded({"a": [float("nan"), float("-inf"), 0.5], "b": HOSTILE})
    assert "<" not in text
    assert json.loads(text) == {"a": [None, None, 0.5], "b": HOSTILE}


def test_values_that_are_not_finite_are_dashes(tmp_path):
    folder = write_run(tmp_path / "run", epochs=2)
    row = {"epoch": 3, "lr": 0.1, "train_loss": None, "test_accuracy": float("nan")}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    page = rewritten(folder)
    for series in page.charts()["accuracy"]["series"]:
        assert series["values"][2] is None
    assert "–" in [text for _, text in page.all("td")]
    assert not re.search(r"\bnan\b", page.text)


def test_an_unfinished_run_shows_what_there_is_and_says_so(tmp_path):
    folder = write_run(tmp_path / "run", epochs=17)
    for name in ("summary.json", "class_accuracy.json", "misclassified.json", "analysis.npz"):
        (folder / name).unlink()
    change(folder, "recipe.json", epochs=50)
    path = folder / "metrics.jsonl"
    path.write_bytes(torn := path.read_bytes()[:-30])
    page = rewritten(folder)
    assert "not finished. The page shows it after 16 of 50 epochs" in page.text
    assert "metrics.jsonl is damaged in line 17: up to epoch 16 was read." in page.text
    assert "92.53" not in page.text
    assert [a["id"] for a, _ in page.all("section")] == ["curves", "rate", "details"]
    assert path.read_bytes() == torn


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    put(tmp_path, "recipe.json", {"recipe": "resnet18", "epochs": 50, "dataset": "cifar10"})
    page = rewritten(tmp_path)
    assert "no epoch has ended yet" in page.text
    assert page.charts() == {}


@pytest.mark.parametrize(("count", "said"), [(0, "makes no mistake"), (3, "only 3 mistakes")])
def test_a_good_model_has_fewer_tiles_and_says_so(tmp_path, count, said):
    page = rewritten(write_run(tmp_path / "run", epochs=2, mistakes=count))
    assert said in page.text
    assert page.text.count('data-view="image"><button') == count


def test_mistakes_without_their_images_are_listed(tmp_path):
    folder = write_run(tmp_path / "run", epochs=2)
    (folder / "analysis.npz").unlink()
    page = rewritten(folder)
    assert page.all("img") == []
    for found in json.loads((folder / "misclassified.json").read_text())["images"]:
        assert (str(found["index"])) in [text for _, text in page.all("th")]


def test_a_missing_a_foreign_and_an_unwritable_run_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="does not exist"):
        write(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="is not a run of fasttrain"):
        write(tmp_path)
    folder = write_run(tmp_path / "run", epochs=1)
    (folder / "report.html").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write(folder)
    (folder / "report.html").rmdir()

    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "replace", read_only)
    with pytest.raises(OutputError, match="cannot be written: Read-only file system"):
        write(folder)
    assert not list(folder.glob(".report*")), "no temporary file is left"


def test_the_time_to_the_target_names_the_target(tmp_path):
    for target, said in ((0.9253, "Time to 92.53 %"), (0.0, "Time to 0.00 %")):
        folder = write_run(tmp_path / str(target), mistakes=1, epochs=2, target_accuracy=target)
        assert said not in rewritten(folder).text, "it was not reached"
        change(folder, "summary.json", seconds_to_target=431.2)
        assert (said, "7 min 11 s") in list(named(rewritten(folder)))


def named(page: Page) -> list[tuple[str, str]]:
    """Return the names and values of the facts."""
    names, values = ([text for _, text in page.all(tag)] for tag in ("dt", "dd"))
    return list(zip(names, values, strict=True))


def test_what_chose_the_best_epoch_and_what_utilisation_is_are_said(folder, page, tmp_path):
    ((_, fine),) = page.all("p", **{"class": "fine"})
    assert "best epoch was chosen by the accuracy on these same test images" in fine
    assert "as were the drops of the learning rate" in fine
    assert "FLOP utilisation is" in fine
    assert "Ring: the best epoch on the test images" in page.all("figcaption")[0][1]
    other = write_run(tmp_path / "cosine", mistakes=1, epochs=2, scheduler="cosine")
    change(other, "summary.json", mfu=None)
    ((_, fine),) = rewritten(other).all("p", **{"class": "fine"})
    assert "these same test images: expect a slightly lower accuracy on new images" in fine
    assert "learning rate" not in fine
    assert "FLOP" not in fine
    begun = tmp_path / "begun"
    begun.mkdir()
    put(begun, "recipe.json", {"epochs": 50})
    assert rewritten(begun).all("p", **{"class": "fine"}) == []


def test_losses_of_two_kinds_have_two_names(page, tmp_path):
    smoothed = rewritten(write_run(tmp_path / "run", epochs=3, label_smoothing=0.2, mistakes=1))
    names = [series["name"] for series in smoothed.charts()["loss"]["series"]]
    assert names == ["train (label smoothing 0.2)", "test (without)"]
    assert "they cannot be compared" in smoothed.text
    assert "with label smoothing 0.2" in smoothed.charts()["range"]["y"]["name"]
    assert "train loss (label smoothing 0.2)" in [text for _, text in smoothed.all("th")]
    for plain in (
        page,
        rewritten(write_run(tmp_path / "none", epochs=3, mistakes=1, label_smoothing=0.0)),
    ):
        assert [s["name"] for s in plain.charts()["loss"]["series"]] == ["train", "test"]
        assert "smoothing" not in plain.charts()["range"]["y"]["name"]
        assert "they cannot be compared" not in plain.text


def test_nothing_is_written_over_the_accuracies(page):
    marks = page.charts()["accuracy"]["marks"]
    assert [mark["style"] for mark in marks].count("best") == 1
    assert not any("label" in mark for mark in marks)


def test_accuracy_is_the_second_column_of_the_classes(page):
    heads = [text for _, text in page.all("th", scope="col")]
    assert heads[heads.index("class") + 1] == "accuracy"


def test_a_run_without_a_finite_test_accuracy_does_not_say_that_no_epoch_ended(tmp_path):
    folder = write_run(tmp_path / "run", epochs=2)
    lines = [json.dumps(row | {"test_accuracy": None}) + "\n" for row in metrics(folder)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    assert "no test accuracy is finite" in rewritten(folder).text
    assert "no epoch has ended" not in rewritten(folder).text


def test_an_unfinished_run_has_no_final_accuracy(folder, page, tmp_path):
    assert "Final accuracy" in dict(named(page))
    young = write_run(tmp_path / "run", epochs=2)
    (young / "summary.json").unlink()
    assert "Latest accuracy" in dict(named(rewritten(young)))
    assert "Final accuracy" not in dict(named(rewritten(young)))


def test_label_errors_do_not_repeat_the_mistakes_and_carry_their_caveat(tmp_path):
    folder = write_run(tmp_path / "run", epochs=2)
    found = json.loads((folder / "misclassified.json").read_text())
    shown, doubts = found["images"], found["label_errors"]
    for again in (0, 5, 12):
        put(folder, "misclassified.json", found | {"label_errors": shown[:again] + doubts[again:]})
        page = rewritten(folder)
        ((_, section),) = page.all("section", id="labels")
        rows = json.loads((folder / "class_accuracy.json").read_text())["classes"]
        wrong = 1 - sum(row["correct"] for row in rows) / sum(row["count"] for row in rows)
        assert f"It is wrong itself on {100 * wrong:.1f} % of the test images" in section
        assert "Only a person can say" in section
        assert section.count("labelled ") == 12 - again
        said = "All of them are" if again == 12 else f"{again} of 12 are"
        assert (f"{said} among the mistakes above" in section) == (again > 0)
        ((_, mistakes),) = page.all("section", id="mistakes")
        assert mistakes.count("label?") == again
        for mistake in shown[:again]:
            assert f"#{mistake['index']}<" not in page.text.split('id="labels"')[1]


def test_samples_carry_the_names_of_their_classes(folder, page, tmp_path):
    ((_, section),) = page.all("section", id="samples")
    labels = np.load(folder / "analysis.npz")["sample_labels"]
    assert section.split("augmented one below.")[1].split() == [NAMES[label] for label in labels]
    old = write_run(tmp_path / "old", epochs=2)
    with np.load(old / "analysis.npz") as archive:
        arrays = {name: archive[name] for name in archive}
    for labels in (None, np.full(16, 10), np.arange(3)):
        known = arrays | {"sample_labels": labels}
        np.savez(old / "analysis.npz", **{k: v for k, v in known.items() if v is not None})
        ((_, section),) = rewritten(old).all("section", id="samples")
        assert "airplane" not in section, "unknown names are not guessed"


@pytest.mark.parametrize("count", range(2, 12))
@pytest.mark.parametrize("most", [4, 5])
def test_no_fact_is_alone_in_the_last_row(count, most):
    number = columns(count, most)
    assert 2 <= number <= most
    assert count % number != 1
    assert -(-count // number) <= -(-count // most) + 1


@pytest.mark.parametrize(
    ("command", "groups"),
    [
        (
            "python -m fasttrain --epochs 5 --deterministic --out 'my run'",
            ["python", "-m fasttrain", "--epochs 5", "--deterministic", "--out 'my run'"],
        ),
        ("fasttrain compare a b --out x", ["fasttrain", "compare", "a", "b", "--out x"]),
        ('fasttrain --lr=0.1 a\\ b "c d"', ["fasttrain", "--lr=0.1", "a\\ b", '"c d"']),
        ("it's \" unbalanced", ["it's", '"', "unbalanced"]),
        ("", []),
    ],
)
def test_a_command_is_kept_together_flag_by_flag(command, groups):
    page = Page(command_line(command))
    assert page.all("p")[0][1] == command
    depth, found = 0, []
    for piece in re.findall(r"<span>|</span>|[^<]+", command_line(command).split(">", 1)[1]):
        depth += {"<span>": 1, "</span>": -1}.get(piece, 0)
        if piece == "<span>" and depth == 1:
            found.append("")
        elif depth and not piece.startswith("<"):
            found[-1] += unescape(piece)
    assert found == groups
