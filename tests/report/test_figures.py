from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fixture_run import DROPS, NAMES, change, put, write_run
from PIL import Image

from fasttrain.errors import CheckpointError, OutputError, UsageError
from fasttrain.report import charts, classes, curves, galleries
from fasttrain.report.figures import FIGURES, draw_all, draw_layers
from fasttrain.report.read import Run, read
from fasttrain.report.style import DPI
from fasttrain.report.tiles import LUMA, STRENGTH, overlay, png


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return read(folder)


def lines(figure, label):
    return next(line for line in figure.axes[0].lines if line.get_label() == label)


def texts(figure) -> str:
    return " ".join(text.get_text() for text in [*figure.axes[0].texts, *figure.texts])


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("draw", "what", "factor"), [(curves.loss, "loss", 1), (curves.accuracy, "accuracy", 100)]
)
def test_the_lines_are_the_metrics_and_differ_in_more_than_colour(folder, run, draw, what, factor):
    figure, rows = draw(run), metrics(folder)
    for half in ("train", "test"):
        expected = [(row["epoch"], factor * row[f"{half}_{what}"]) for row in rows]
        np.testing.assert_allclose(lines(figure, half).get_xydata(), expected)
    assert lines(figure, "train").get_linestyle() != lines(figure, "test").get_linestyle()
    assert figure.axes[0].get_xlabel() == "epoch"
    assert "(" in figure.axes[0].get_ylabel(), "the unit"


def test_the_best_epoch_is_marked(folder, run):
    best = max(metrics(folder), key=lambda row: row["test_accuracy"])
    ((x, y),) = lines(curves.accuracy(run), "_best").get_xydata()
    assert (x, y) == (best["epoch"], 100 * best["test_accuracy"])


def test_the_rate_is_on_a_log_axis_with_its_drops_marked(folder, run):
    figure = curves.lr(run)
    rates, *drops = figure.axes[0].lines
    by_epoch = [(row["epoch"], row["lr"]) for row in metrics(folder)]
    np.testing.assert_array_equal(rates.get_xydata(), [(0, by_epoch[0][1]), *by_epoch])
    assert rates.get_drawstyle() == "steps-pre", "an epoch's rate holds from its beginning"
    assert figure.axes[0].get_yscale() == "log"
    assert [line.get_xdata()[0] + 1 for line in drops] == list(DROPS)
    for drop in DROPS:
        assert f"after epoch {drop - 1}" in texts(figure)


def test_a_schedule_that_always_falls_has_no_drops(tmp_path):
    run = read(write_run(tmp_path / "cosine", scheduler="cosine"))
    assert len(curves.lr(run).axes[0].lines) == 1


def test_the_range_test_marks_its_suggestion_and_says_why_it_ended(folder, run):
    figure = curves.lr_finder(run)
    found = json.loads((folder / "lr_finder.json").read_text())
    smoothed, raw = lines(figure, "smoothed"), lines(figure, "each step")
    np.testing.assert_array_equal(
        smoothed.get_xydata(), np.stack([found["lrs"], found["losses"]], 1)
    )
    np.testing.assert_array_equal(raw.get_ydata(), found["raw"])
    sign = next(line for line in figure.axes[0].lines if len(set(line.get_xdata())) == 1)
    assert sign.get_xdata()[0] == found["suggestion"]
    said = texts(figure).replace("\n", " ")
    assert found["stopped"] in said
    assert "suggestion 0.0192" in said


def test_train_against_test_has_a_point_an_epoch(folder, run):
    figure = curves.train_vs_test(run)
    expected = [(100 * r["train_accuracy"], 100 * r["test_accuracy"]) for r in metrics(folder)]
    np.testing.assert_allclose(figure.axes[0].collections[0].get_offsets(), expected)
    gap = expected[-1][0] - expected[-1][1]
    assert gap > 1
    assert f"{gap:.2f} points above" in texts(figure)


def test_the_confusion_matrix_shows_the_counts(folder, run):
    figure = classes.confusion(run)
    counts = np.array(json.loads((folder / "class_accuracy.json").read_text())["confusion"])
    shown = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    for (true, predicted), count in np.ndenumerate(counts):
        assert shown.get((predicted, true)) == (f"{count:,}" if count else None)
    shades = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shades**2, counts / counts.sum(1, keepdims=True))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(NAMES)


def test_the_class_bars_begin_at_zero_and_carry_their_intervals(folder, run):
    figure = classes.class_bars(run)
    found = json.loads((folder / "class_accuracy.json").read_text())["classes"]
    found.sort(key=lambda row: row["accuracy"])
    bars, (whiskers,) = figure.axes[0].patches, figure.axes[0].collections
    np.testing.assert_allclose(
        [bar.get_width() for bar in bars], [100 * r["accuracy"] for r in found]
    )
    assert figure.axes[0].get_xlim()[0] == 0
    ends = [segment[:, 0] for segment in whiskers.get_segments()]
    np.testing.assert_allclose(ends, [(100 * r["low"], 100 * r["high"]) for r in found])


def test_the_ledger_is_one_bar_of_all_parts(folder, run):
    figure = classes.ledger(run)
    parts = json.loads((folder / "summary.json").read_text())["ledger"]
    bars = figure.axes[0].patches
    np.testing.assert_allclose([bar.get_width() for bar in bars], list(parts.values()))
    np.testing.assert_allclose(bars[-1].get_x() + bars[-1].get_width(), sum(parts.values()))
    assert len({bar.get_hatch() for bar in bars}) == len(parts), "distinguishable in greyscale"


def test_a_gallery_shows_the_images_themselves_unsmoothed(run):
    figure = galleries.misclassified(run)
    shown = figure.axes[0].images
    assert len(shown) == 25
    assert {image.get_interpolation() for image in shown} == {"nearest"}
    for image, expected in zip(shown, run.arrays["images"], strict=True):
        np.testing.assert_array_equal(image.get_array(), expected)
    first = run.mistakes.shown[0]
    assert f"is {first.true}  #{first.place}" in texts(figure)
    assert "25 of 712 mistakes. Chosen by: most confident mistakes first." in texts(figure)


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (7, "The model makes only 7 mistakes: all are shown."),
        (1, "The model makes only 1 mistake: it is shown."),
        (0, "The model makes no mistake on the test images."),
        (25, "All 25 mistakes."),
    ],
)
def test_a_good_model_shows_what_there_is_and_says_so(tmp_path, count, said):
    run = read(write_run(tmp_path / "good", mistakes=count, epochs=2))
    figure = galleries.misclassified(run)
    assert galleries.how_chosen(run).startswith(said)
    assert len(figure.axes[0].images if figure else []) == count


def test_the_two_cam_galleries_lay_their_own_maps_over_the_images(run):
    for which in ("predicted", "true"):
        figure = FIGURES[f"gradcam_{which}"](run)
        for i in (0, 24):
            expected = overlay(run.arrays["images"][i], run.arrays[f"{which}_maps"][i], 5)
            np.testing.assert_array_equal(figure.axes[0].images[i].get_array(), expected)
    assert not np.array_equal(run.arrays["predicted_maps"], run.arrays["true_maps"])


def test_an_overlay_is_the_coloured_map_over_the_grey_image():
    random = np.random.default_rng(3)
    image = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    heat = random.random((8, 8)).astype(np.float32)
    # The references: Pillow's bilinear filter and its pixels' grey, matplotlib's colours.
    wide = np.array(Image.fromarray(heat).resize((96, 96), Image.Resampling.BILINEAR))
    grey = np.array(Image.fromarray(image).resize((96, 96), Image.Resampling.NEAREST)) @ LUMA
    colour = matplotlib.colormaps["inferno"](wide)[..., :3] * 255
    opacity = STRENGTH * wide[..., None]
    expected = (1 - opacity) * grey[..., None] + opacity * colour
    got = overlay(image, heat).astype(float)
    assert np.abs(got - expected).max() < 2.5  # a step of the 256 colours, and rounding
    assert np.abs(overlay(image, heat.T).astype(float) - expected).max() > 50


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_a_map_that_says_nothing_leaves_the_image_to_be_seen(level):
    image = np.random.default_rng(5).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    grey = image @ LUMA
    shown = overlay(image, np.full((8, 8), level), 1) @ LUMA
    assert shown.std() >= 0.6 * grey.std(), "half of a map's range may not hide half of the image"
    if level == 0:
        np.testing.assert_allclose(shown, grey, atol=1)


def test_a_map_that_is_not_finite_is_drawn_as_nothing():
    image = np.full((32, 32, 3), 128, np.uint8)
    np.testing.assert_array_equal(
        overlay(image, np.full((8, 8), np.nan)), overlay(image, np.zeros((8, 8)))
    )


def test_a_png_holds_exactly_its_pixels():
    image = np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(png(image))) as read_back:
        np.testing.assert_array_equal(np.array(read_back), image)


def test_a_closer_look_puts_all_layers_of_both_classes_side_by_side(tmp_path):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    sides = {"layer1": 32, "layer2": 16, "layer3": 8, "layer4": 8}
    maps = [{name: random.random((n, n)) for name, n in sides.items()} for _ in range(2)]
    rows = list(zip(("for the predicted class", "for the true class"), maps, strict=True))
    figure = galleries.layers(image, rows, title="x")
    shown = [shown.get_array() for shown in figure.axes[0].images]
    assert len(shown) == 10
    np.testing.assert_array_equal(shown[0], image)
    np.testing.assert_array_equal(shown[2], overlay(image, maps[0]["layer2"], 8))
    np.testing.assert_array_equal(shown[9], overlay(image, maps[1]["layer4"], 8))
    path = draw_layers(image, rows, title="Test image 3", path=tmp_path / "figures" / "a.png")
    assert size(path) == (1020, 540)


def size(path: Path) -> tuple[int, int]:
    return struct.unpack(">II", path.read_bytes()[16:24])


def test_draw_all_writes_every_figure_and_touches_nothing_else(tmp_path):
    folder = write_run(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    settings = dict(matplotlib.rcParams)
    drawn = draw_all(folder)
    assert [path.name for path in drawn] == [f"{name}.png" for name in FIGURES]
    assert size(folder / "figures" / "loss.png") == (8 * DPI, 4.5 * DPI)
    for path in drawn:
        assert size(path)[0] <= 8 * DPI, "fits a screen at 100 %"
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    assert dict(matplotlib.rcParams) == settings
    pyplot = sys.modules.get("matplotlib.pyplot")  # others may have imported it
    assert pyplot is None or pyplot.get_fignums() == []


def test_an_unfinished_run_draws_what_there_is(tmp_path):
    folder = write_run(tmp_path / "run", epochs=1)
    for name in ("summary.json", "class_accuracy.json", "misclassified.json", "analysis.npz"):
        (folder / name).unlink()
    drawn = [path.stem for path in draw_all(folder)]
    assert drawn == ["loss", "accuracy", "lr", "lr_finder", "train_vs_test"]


@pytest.mark.parametrize("epochs", [1, 2, 50])
@pytest.mark.parametrize("draw", [curves.loss, curves.accuracy])
def test_every_point_of_a_curve_lies_inside_its_axes_and_under_no_legend(tmp_path, draw, epochs):
    figure = draw(read(write_run(tmp_path / "run", epochs=epochs)))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    room = 0.02 * (high - low)
    for line in (lines(figure, half) for half in ("train", "test")):
        assert line.get_ydata().min() >= low + room
        assert line.get_ydata().max() <= high - room
    assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1 - 1


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_losses_in_a_figure_are_named_as_what_they_are(tmp_path, smoothing):
    run = read(write_run(tmp_path / "run", epochs=3, label_smoothing=smoothing))
    figure = curves.loss(run)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    smoothed = ["train (label smoothing 0.2)", "test (without)"]
    assert names == (smoothed if smoothing else ["train", "test"])
    assert ("cannot be compared" in texts(figure)) == bool(smoothing)
    sweep = curves.lr_finder(run)
    assert ("smoothing 0.2" in sweep.axes[0].get_ylabel()) == bool(smoothing)
    sweep.draw_without_rendering()
    label = sweep.axes[0].yaxis.label.get_window_extent()
    assert label.y1 <= min(text.get_window_extent().y0 for text in sweep.texts)


def test_samples_are_named_by_their_classes(run):
    named = [text.get_text() for text in galleries.samples(run).axes[0].texts]
    assert named == [NAMES[i % 10] for i in range(16)]


@pytest.mark.parametrize("draw", [curves.loss, curves.accuracy, curves.lr])
def test_epochs_are_whole_on_their_axis_also_when_there_is_one(tmp_path, draw):
    axes = draw(read(write_run(tmp_path / "run", epochs=1))).axes[0]
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks == ([0.0, 1.0] if draw is curves.lr else [1.0])


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_colours_of_epochs_are_labelled_with_whole_ones(tmp_path, epochs):
    bar = curves.train_vs_test(read(write_run(tmp_path / "run", epochs=epochs))).axes[1]
    low, high = bar.get_ylim()
    ticks = [tick for tick in bar.get_yticks() if low <= tick <= high]
    assert ticks == list(range(1, epochs + 1))


def test_a_run_that_has_only_begun_draws_nothing(tmp_path):
    put(tmp_path, "recipe.json", {"recipe": "resnet18", "epochs": 50})
    assert draw_all(tmp_path) == []


def test_a_torn_last_line_is_left_out_with_a_note_and_left_alone(tmp_path):
    folder = write_run(tmp_path / "run", epochs=9)
    path = folder / "metrics.jsonl"
    path.write_bytes(torn := path.read_bytes()[:-40])
    run = read(folder)
    assert [row.epoch for row in run.rows] == list(range(1, 9))
    assert run.notes == ["metrics.jsonl is damaged in line 9: up to epoch 8 was read."]
    assert path.read_bytes() == torn


@pytest.mark.parametrize("tear", [b"\x00\xff\n", b"[1]\n", b'{"epoch": "x"}\n', b"{}\n", b"[[[["])
def test_a_line_that_is_no_epoch_is_a_tear_too(tmp_path, tear):
    folder = write_run(tmp_path / "run", epochs=2)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(tear)
    run = read(folder)
    assert len(run.rows) == 2
    assert len(run.notes) == 1


def test_a_path_that_is_no_folder_is_the_persons_mistake(tmp_path):
    (tmp_path / "file").touch()
    for name, why in (("missing", "does not exist"), ("file", "is a file")):
        with pytest.raises(UsageError, match=why):
            draw_all(tmp_path / name)


def test_a_foreign_folder_is_no_run(tmp_path):
    with pytest.raises(CheckpointError, match="is not a run of fasttrain"):
        draw_all(tmp_path)
    put(tmp_path, "recipe.json", {"flour": 500})
    with pytest.raises(CheckpointError, match="is not a run of fasttrain"):
        draw_all(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recipe.json", b'{"recipe": "resnet'),
        ("summary.json", b"[1, 2]"),
        ("environment.json", b"\xff\xfe"),
        ("lr_finder.json", b'{"lrs": [1e-5], "losses": [2.3, 2.2], "suggestion": 0.1}'),
        ("lr_finder.json", b'{"lrs": [0], "losses": [2.3], "suggestion": 0.1}'),
        ("class_accuracy.json", b'{"classes": [{"name": "cat"}]}'),
        ("class_accuracy.json", b'{"classes": [], "confusion": [[1]]}'),
        ("misclassified.json", b'{"images": [{"index": 1e999}]}'),
        ("misclassified.json", b'{"images": 7}'),
        ("analysis.npz", b"PK\x03\x04 no archive"),
        ("analysis.npz", b""),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, name, content):
    folder = write_run(tmp_path / "run", epochs=1)
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read(folder)
    assert str(caught.value).startswith(f"{name} (")
    assert "\n" not in str(caught.value)


def test_an_archive_with_arrays_of_another_kind_is_damaged(tmp_path):
    folder = write_run(tmp_path / "run", epochs=1)
    np.savez(folder / "analysis.npz", images=np.zeros((25, 32, 32)))
    with pytest.raises(CheckpointError, match="images is float64 of shape"):
        read(folder)
    np.savez(folder / "analysis.npz", images=np.array([{}]))  # a pickle
    with pytest.raises(CheckpointError, match=r"analysis\.npz"):
        read(folder)


def test_images_of_another_analysis_are_not_shown_under_the_wrong_names(tmp_path):
    folder = write_run(tmp_path / "run", epochs=1)
    change(folder, "misclassified.json", images=[])
    run = read(folder)
    assert "images" not in run.arrays
    assert "label_error_images" in run.arrays
    assert "run `fasttrain explain` again" in run.notes[0]


def test_what_cannot_be_written_is_one_error(tmp_path):
    folder = write_run(tmp_path / "run", epochs=1)
    (folder / "figures").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        draw_all(folder)


def test_the_report_is_imported_without_torch_and_without_matplotlib():
    names = ["figures", "html", "compare"]
    code = f"import sys; from fasttrain.report import {', '.join(names)}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "numpy" in loaded
    assert not {"torch", "matplotlib", "triton", "nvidia.dali"} & set(loaded)


def test_averaged_weights_are_a_curve_of_their_own_and_may_hold_the_best_epoch(tmp_path):
    plain, averaged = write_run(tmp_path / "plain", epochs=6), write_run(tmp_path / "a", epochs=6)
    rows = [{**row, "ema_test_accuracy": 0.5 + row["epoch"] / 100} for row in metrics(averaged)]
    (averaged / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    change(averaged, "summary.json", best_weights="averaged", best_epoch=4)
    name = "test, averaged weights"
    drawn = lines(curves.accuracy(read(averaged)), name)
    assert drawn.get_ydata() == pytest.approx([51, 52, 53, 54, 55, 56])
    ring = lines(curves.accuracy(read(averaged)), "_best")
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (4, pytest.approx(54))
    chart = charts.curves(read(averaged))["accuracy"]
    assert [series["name"] for series in chart["series"]] == ["train", "test", name]
    assert "54.00 % by the averaged weights in epoch 4" in texts(curves.accuracy(read(averaged)))
    labels = [line.get_label() for line in curves.accuracy(read(plain)).axes[0].lines]
    assert name not in labels
    assert len(charts.curves(read(plain))["accuracy"]["series"]) == 2
