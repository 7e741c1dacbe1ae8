"""The model card: what a file classifies, what it was trained on, and how often it is right.

Whoever gets the file alone has no report; and numbers without their counts, or data without a
digest, could not be checked.
"""

from __future__ import annotations

from typing import Any

from ..data import cifar10, cifar100, mnist
from ..data.preprocessing import Preprocessing
from ..explain.analysis import wilson
from ..predict.classifier import Classifier
from ..recipe.recipe import Recipe
from ..report.read import Run
from ..report.words import MISSING, TITLES, fact, percent, whole
from .safetensors_file import timm_name

FITS = {
    "crop": "the centred square is taken",
    "squash": "the image is stretched to a square",
    "pad": "the image is padded with black to a square",
}


def card(
    run: Run,
    classifier: Classifier,
    kept: dict[str, Any] | None,
    found: dict[str, dict[str, Any]],
    *,
    held_out: int,
    input: str,
) -> str:
    """The text of README.md; `found` are the numbers of each format's verification, on `held_out`
    images of the run and noise."""
    recipe, about = classifier.recipe, classifier.preprocessing
    data, names, side = _title(recipe, kept), about.classes, about.side
    worst = max(each["max_difference_of_probabilities"] for each in found.values())
    count = max(each["images"] for each in found.values())
    lines = [
        f"# {run.name}",
        "",
        f"An image classifier: {recipe.model}, {len(names):,} classes, images of {side} x {side} "
        f"pixels, trained on {data} by fasttrain.",
        "",
        *_section("Files", _files(classifier, found)),
        f"Each was read back by its own runtime and compared with the network in float32 on "
        f"{held_out} held-out images and {count - held_out} of noise: no probability differs by "
        f"more than {worst:.1e}. The numbers are in `export.json`.",
        "",
        *_section("Input and output", _input(about, input)),
        *_section("Data", _data(run, recipe, kept)),
        *_section("Results", _results(run)),
        *_section("Limits", _limits(run, data, len(names))),
        "## Licence",
        "",
        "Not given here. It is for the owner of the weights and of the images to choose.",
    ]
    return "\n".join(lines) + "\n"


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""]


def _files(classifier: Classifier, found: dict[str, dict[str, Any]]) -> list[str]:
    loader = timm_name(classifier.recipe, classifier.preprocessing.side)
    opens = f"timm opens it, as {loader}" if loader else "timm has no such network; fasttrain has"
    what = {
        "onnx": "for ONNX Runtime, opset 18",
        "pt2": "for torch: `torch.export.load`",
        "safetensors": f"the weights alone, described by `config.json`; {opens}",
    }
    return [f"- `model.{name}`: {what[name]}" for name in found]


def _input(about: Preprocessing, input: str) -> list[str]:
    mean, std = (", ".join(f"{each:.4f}" for each in part) for part in about.statistics)
    side = f"{about.side} x {about.side}"
    fitted = f"{FITS[about.fit]}, then resized to {side}, bilinear, antialiased, as Pillow does it"
    scaled = f"divided by 255, minus the mean ({mean}), divided by the deviation ({std})"
    if input == "image":
        lines = [
            "Bytes of upright RGB images of any size, uint8 (batch, height, width, 3). The ONNX "
            "and pt2 files do the rest:",
            "",
            f"1. {fitted};",
            f"2. {scaled}.",
        ]
    else:
        lines = [
            f"Bytes of upright RGB images of {side}, uint8 (batch, {about.side}, {about.side}, 3). "
            f"The caller has prepared them: {fitted}.",
            "",
            f"The ONNX and pt2 files do the rest: {scaled}.",
        ]
    return [
        *lines,
        "",
        "They put out `logits` and `probabilities`, float32 (batch, classes), in the order of "
        "`classes.json`.",
    ]


def _data(run: Run, recipe: Recipe, kept: dict[str, Any] | None) -> list[str]:
    counts = run.summary.get("images")
    splits = [f"{whole(n)} {name}" for name, n in counts.items()] if counts else [MISSING]
    lines = [
        f"- data set: {_title(recipe, kept)}",
        f"- images: {', '.join(splits)}",
        f"- the best epoch was chosen by: {run.held_out}",
    ]
    return lines + [f"- SHA-256 of {name}: `{each}`" for name, each in _digests(recipe, kept)]


def _digests(recipe: Recipe, kept: dict[str, Any] | None) -> list[tuple[str, str]]:
    if kept and "listing" in kept:
        return [("the listing of all images", str(kept["listing"]))]
    if recipe.dataset == "cifar10":
        return list(cifar10.DIGESTS.items())
    files = {"cifar100": cifar100.DIGESTS, "mnist": mnist.DIGESTS}.get(str(recipe.dataset), {})
    return [(name, digest) for name, (_, digest) in files.items()]


def _results(run: Run) -> list[str]:
    if not run.classes:
        return [f"Not measured. `python -m fasttrain explain` measures them. ({MISSING})"]
    right, count = sum(row.correct for row in run.classes), sum(row.images for row in run.classes)
    low, high = wilson(right, count)
    lines = [
        f"On the {run.analysed} images, in training's precision; intervals are Wilson's, 95 %.",
        "",
        "| | value | interval | images |",
        "| --- | --- | --- | --- |",
        f"| accuracy | {percent(right / count)} | {_interval(low, high)} | {count:,} |",
    ]
    for title, name in (("balanced accuracy", "balanced_accuracy"), ("macro F1", "macro_f1")):
        value = fact(run.summary, name)
        lines.append(f"| {title} | {percent(value)} | {MISSING} | {count:,} |")
    lines += ["", "| class | recall | interval | images |", "| --- | --- | --- | --- |"]
    return lines + [
        f"| {_cell(row.name)} | {percent(row.accuracy)} | {_interval(row.low, row.high)} | "
        f"{row.images:,} |"
        for row in run.classes
    ]


def _limits(run: Run, data: str, classes: int) -> list[str]:
    lines = [
        f"- Every image gets one of the {classes:,} classes, also one that shows none of them.",
        f"- The results hold for images like those of {data}; others were not measured.",
        "- Whether a probability of 0.9 is right nine times in ten was not measured.",
    ]
    if run.analysed == run.held_out:
        lines.append(
            f"- The {run.analysed} images also chose the best epoch, so the accuracy is a little "
            "optimistic."
        )
    return lines


def _title(recipe: Recipe, kept: dict[str, Any] | None) -> str:
    name = str((kept or {}).get("name", recipe.dataset))
    return TITLES.get(name, name)


def _interval(low: float, high: float) -> str:
    return f"{percent(low)} to {percent(high)}"


def _cell(name: str) -> str:
    """A name in a cell of a table; it may hold any letter."""
    return name.replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`")
