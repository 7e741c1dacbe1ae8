"""A report of other classes than CIFAR-10's: a hundred of them, larger images, val that chose."""

import json
import re
from html import unescape

import numpy as np
import pytest
from fixture_run import change, put, write_run

from fasttrain.report import figures
from fasttrain.report.html import write
from tests.report.test_html import Page, pixels


@pytest.mark.parametrize("count", [21, 100, 300])
def test_many_classes_are_read_as_the_worst_pairs_and_one_picture(count, tmp_path):
    run = write_run(tmp_path / "run", epochs=2)
    random = np.random.default_rng(count)
    confusion = np.diag(random.integers(20, 90, count)) + random.integers(0, 2, (count, count))
    confusion[7, 3] = 50
    rows = [
        {"name": f"c{i}", "count": int(n), "correct": 1, "accuracy": 0.5, "low": 0.4, "high": 0.6}
        for i, n in enumerate(confusion.sum(axis=1))
    ]
    put(run, "class_accuracy.json", {"classes": rows, "confusion": confusion.tolist()})
    found = Page(write(run).read_text())
    assert not found.all("table", **{"class": "confusion"})
    labels = [attributes.get("aria-label") for attributes, _ in found.all("table")]
    assert "The pairs that are confused most" in labels
    drawn = shades(found, count)
    assert ((drawn > 0) == (confusion > 0)).all()
    shares = np.sqrt(confusion / confusion.sum(axis=1, keepdims=True))
    assert np.abs(drawn - shares).max() < 0.1
    off = drawn * (1 - np.eye(count))
    assert np.unravel_index(off.argmax(), off.shape) == (7, 3), "the strongest off the diagonal"
    text = (run / "report.html").read_text()
    assert f"<title>c7 taken for c3: 50 of {confusion[7].sum()}</title>" in text
    for name in (rows[0]["name"], rows[-1]["name"]):
        assert text.count(f">{name}</text>") == 2, "beside its row and above its column"
    assert "<summary>All " in text.partition("The pairs that are confused most")[2]
    assert len(text) < 5_000_000


def shades(page, count):
    """The opacity of each cell of the drawn matrix, row by row."""
    found = np.zeros((count, count))
    for attributes, _ in page.all("path"):
        if "fill-opacity" in attributes:
            for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", attributes["d"]):
                found[int(y), int(x)] = float(attributes["fill-opacity"])
    return found


def test_the_figures_of_many_classes_are_drawn(tmp_path):
    run = write_run(tmp_path / "run", epochs=2)
    rows = [
        {"name": f"class {i}", "count": 9, "correct": 5, "accuracy": 0.5, "low": 0.3, "high": 0.7}
        for i in range(300)
    ]
    confusion = 5 * np.eye(300, dtype=int)
    put(run, "class_accuracy.json", {"classes": rows, "confusion": confusion.tolist()})
    made = figures.draw_all(run, names=("confusion", "class_accuracy"))
    assert [path.stem for path in made] == ["confusion", "class_accuracy"]


def words_of(page):
    """What a reader sees, on one line."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


@pytest.mark.parametrize("side", [28, 64, 224])
def test_images_of_any_side_make_a_page_that_is_no_larger(side, tmp_path):
    run = write_run(tmp_path / "run", epochs=2)
    arrays = dict(np.load(run / "analysis.npz"))
    random = np.random.default_rng(side)
    for name, found in arrays.items():
        if name.endswith("maps"):
            arrays[name] = random.random((len(found), side, side)).astype(np.float16)
        elif found.ndim == 4:
            shape = (len(found), side, side, 3)
            arrays[name] = random.integers(0, 256, shape, np.uint8)
    np.savez_compressed(run / "analysis.npz", **arrays)
    text = write(run).read_text()
    assert len(text) < 8_000_000
    sides = {pixels(a).shape[0] for a, _ in Page(text).all("img")}
    assert max(sides) <= 128
    figures.draw_all(run, names=("misclassified", "gradcam_true", "samples"))


def test_a_run_that_val_chose_says_so(tmp_path):
    run = write_run(tmp_path / "run", epochs=3)
    text = (run / "metrics.jsonl").read_text().replace('"test_', '"val_')
    (run / "metrics.jsonl").write_text(text)
    best = max(json.loads(line)["val_accuracy"] for line in text.splitlines())
    change(run, "summary.json", chosen_by="val", test_accuracy=0.8125, test_loss=0.6)
    said = words_of(write(run).read_text())
    for words in (
        "81.25 %",
        f"Best val accuracy {100 * best:.2f} %",
        "val loss",
        "which val chose",
    ):
        assert words in said, words
    (run / "summary.json").unlink()  # it still trains
    said = words_of(write(run).read_text())
    assert "best val accuracy so far" in said


def test_means_over_classes_stand_in_the_table_of_epochs_where_there_are_any(tmp_path):
    run = write_run(tmp_path / "run", epochs=3)
    assert "macro F1" not in words_of(write(run).read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[1:] = [{**row, "balanced_accuracy": 0.4321, "macro_f1": 0.3456} for row in lines[1:]]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    said = words_of(write(run).read_text())
    assert "data wait" in said
    for words in ("balanced accuracy", "macro F1", "43.21 %", "34.56 %"):
        assert words in said, words
