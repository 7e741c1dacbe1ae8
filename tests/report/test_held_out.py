"""The report names the split of every image: val where val chose, test where test did.

Three runs: `old` is of a release that recorded no split, `val` held out only val, and in `both` val
chose the best epoch and test was evaluated once.
"""

import json
import re
from html import unescape

import pytest
from fixture_run import change, write_run

from fasttrain.report import compare
from fasttrain.report.figures import FIGURES
from fasttrain.report.html import write
from fasttrain.report.read import read
from tests.report.test_html import Page

# Texts in which a test is no split: the range test, and test-time flips.
OTHER = re.compile(r"range[ -]test|end of the test|the test (ran|stopped)|test-time", re.IGNORECASE)
TEST, VAL = re.compile(r"\btest\b", re.IGNORECASE), re.compile(r"\bval\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("held-out")
    return {name: made(root / name, name) for name in ("old", "val", "both")}


def made(path, kind):
    write_run(path, epochs=4, dataset="/data/photos", target_accuracy=0.5)
    summary = json.loads((path / "summary.json").read_text())
    if kind == "old":
        return path
    rows = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(rows.replace('"test_', '"val_'))
    summary = {name.replace("_test_", "_val_"): value for name, value in summary.items()}
    summary |= {"chosen_by": "val", "seconds_to_target": 3.0}
    summary |= {"final_val_accuracy_with_flips": 0.81}
    summary |= {"test_accuracy": 0.7654, "test_loss": 1.0} if kind == "both" else {}
    (path / "summary.json").write_text(json.dumps(summary))
    for name in ("class_accuracy.json", "misclassified.json"):
        change(path, name, split="test" if kind == "both" else "val")
    return path


def page_texts(path):
    """What the page says, a text for each place that says it, and what its charts say."""
    page = Page(write(path).read_text(encoding="utf-8"))
    body = re.sub(r"<(script|style).*?</\1>", "", page.text, flags=re.DOTALL)
    pairs = re.findall(r'>([^<]+)<|(?:alt|aria-label|data-says)="([^"]*)"', body)
    found = [unescape(text or attribute) for text, attribute in pairs]
    for chart in page.charts().values():
        found += [chart["label"], chart["x"]["name"], chart["y"]["name"]]
        found += [series["name"] for series in chart["series"]]
    return found


def figure_texts(path, name):
    figure = FIGURES[name](read(path))
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        legend = axes.get_legend()
        found += [
            text.get_text() for text in [*axes.texts, *(legend.get_texts() if legend else [])]
        ]
        found += [axes.get_xlabel(), axes.get_ylabel(), axes.get_title()]
    return found


def mentions(word, texts):
    return [text for text in texts if word.search(OTHER.sub("", text))]


def test_a_run_without_test_images_says_test_nowhere(runs):
    texts = page_texts(runs["val"])
    assert not mentions(TEST, texts)
    assert len(mentions(VAL, texts)) > 20
    for name in FIGURES:
        assert not mentions(TEST, figure_texts(runs["val"], name)), name


def test_a_run_that_recorded_no_split_says_test_as_it_did(runs):
    texts = page_texts(runs["old"])
    assert not mentions(VAL, texts)
    assert len(mentions(TEST, texts)) > 20
    for name in FIGURES:
        assert not mentions(VAL, figure_texts(runs["old"], name)), name


@pytest.mark.parametrize(
    ("figure", "of"),
    [
        *[(name, "val") for name in ("loss", "accuracy", "train_vs_test")],
        *[(name, "test") for name in ("class_accuracy", "misclassified")],
    ],
)
def test_curves_are_of_val_and_classes_and_mistakes_of_test(runs, figure, of):
    texts = figure_texts(runs["both"], figure)
    wanted, other = (VAL, TEST) if of == "val" else (TEST, VAL)
    assert mentions(wanted, texts)
    assert not mentions(other, texts)


def test_both_accuracies_stand_on_the_page_with_what_chose_what(runs):
    page = Page(write(runs["both"]).read_text(encoding="utf-8"))
    (big,) = [words for _, words in page.all("p", **{"class": "big"})]
    best = read(runs["both"]).best
    assert big == f"76.54 %test accuracy of epoch {best.epoch} of 4, which val chose"
    assert "Best val accuracy" in page.text
    assert f"{100 * best.test_accuracy:.2f} %" in page.text
    assert "evaluated once, at the end, with that epoch" in page.text
    assert "<title>76.54 %" in page.text
    charts = page.charts()
    assert [series["name"] for series in charts["accuracy"]["series"]] == ["train", "val"]
    assert charts["gap"]["y"]["name"] == "train − val (points)"


def test_a_comparison_names_the_images_and_does_not_mix_them(runs):
    def rows(*names):
        return dict(compare.table([read(runs[name]) for name in names]))

    assert {"best test accuracy", "final test accuracy"} <= rows("old", "old").keys()
    both = rows("val", "both")
    assert {"best val accuracy", "final val accuracy"} <= both.keys()
    assert both["test accuracy of that epoch"] == ["–", "76.54 %"]
    mixed = rows("old", "val")
    assert mixed["held-out images"] == ["test", "val"]
    assert "best held-out accuracy" in mixed
    assert "Val accuracy by epoch" in compare.page([read(runs["val"]), read(runs["both"])])
    assert "Held-out accuracy by epoch" in compare.page([read(runs["old"]), read(runs["val"])])
