"""The figures of images: augmented samples, mistakes, and Grad-CAM maps.

Images are enlarged without smoothing; only the maps on them are smooth. A gallery is drawn on one
pair of axes, because 25 pairs would take matplotlib seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import shown
from .read import Run
from .records import Mistake
from .style import INK, MUTED, figure, pictures
from .tiles import overlay
from .words import sure

if TYPE_CHECKING:
    from .style import Axes, Figure

COLUMNS = 5
LINE = 0.13  # height of a line of text under a tile, in tile widths
WANTED = 25
TITLE_LETTER = 0.11  # inches of a title's letter


def samples(run: Run) -> Figure | None:
    """Draw training images, each above its augmented version."""
    before, after = run.pictures("sample_originals"), run.pictures("sample_augmented")
    if not len(before) or not len(after):
        return None
    across = min(len(before), 8)
    bands = -(-len(before) // across)
    names = run.sample_names
    note = "In each pair: the stored image above, the augmented one below."
    pitch = 2.25 + (0.15 if names else 0)
    made = figure(
        "Training images and their augmentation", note, size=(8, 0.75 + 0.92 * pitch * bands)
    )
    axes = pictures(made, width=1.06 * across, height=pitch * bands - 0.2 + (0.2 if names else 0))
    for i, pair in enumerate(zip(before, after, strict=True)):
        band, column = divmod(i, across)
        for row, image in enumerate(pair):
            _put(axes, image, 1.06 * column, pitch * band + 1.02 * row)
    for i, name in enumerate(names):
        band, column = divmod(i, across)
        _label(axes, 1.06 * column, pitch * band + 2.06, shown(name, 14), ink=MUTED)
    return made


def misclassified(run: Run) -> Figure | None:
    """Draw the chosen mistakes, with predicted class, confidence and true class."""

    def tile(_: int, image: np.ndarray) -> np.ndarray:
        return image

    of = run.analysed
    note = f" Below each: predicted class, confidence, true class, index in the {of} set."
    return _gallery(run, f"Misclassified {of} images", tile, note)


def gradcam_predicted(run: Run) -> Figure | None:
    """Draw Grad-CAM of the mistakes for their predicted classes."""
    return _cams(run, "predicted")


def gradcam_true(run: Run) -> Figure | None:
    """Draw Grad-CAM of the mistakes for their true classes."""
    return _cams(run, "true")


def layers(
    image: np.ndarray, rows: Sequence[tuple[str, dict[str, np.ndarray]]], *, title: str
) -> Figure:
    """Draw an image (side, side, 3) and its maps in each layer; a row has a label and maps."""
    note = "Grad-CAM in each layer. Bright: evidence for the class."
    title = shown(title, 100)
    count = 1 + len(rows[0][1])
    width = max(1.7 * count, 0.3 + TITLE_LETTER * len(title))
    made = figure(title, note, size=(width, 0.9 + 1.8 * len(rows)))
    axes = pictures(made, width=1.05 * count, height=1.2 * len(rows) - 0.04)
    for row, (label, maps) in enumerate(rows):
        top = 1.2 * row + 0.14
        _put(axes, image, 0, top)
        _label(axes, 0, top - 0.03, shown(label, 40), ink=INK, above=True)
        for column, (layer, heat) in enumerate(maps.items(), 1):
            _put(axes, overlay(image, heat, max(1, 256 // len(image))), 1.05 * column, top)
            _label(axes, 1.05 * column, top - 0.03, layer, ink=MUTED, above=True)
    return made


def how_chosen(run: Run) -> str:
    """Describe which mistakes are shown, in a sentence or two."""
    mistakes = run.mistakes
    if mistakes is None:
        return ""
    shown = len(mistakes.shown)
    total = max(mistakes.total, shown)
    if not total:
        return f"The model makes no mistake on the {run.analysed} images."
    if shown < total:
        which = f"{shown} of {total:,} mistakes."
    elif total < WANTED:
        plural = "s: all are" if total > 1 else ": it is"
        which = f"The model makes only {total} mistake{plural} shown."
    else:
        which = f"All {total} mistakes."
    return f"{which} Chosen by: {mistakes.rule}." if mistakes.rule else which


def _cams(run: Run, which: str) -> Figure | None:
    maps = run.arrays.get(f"{which}_maps")
    if maps is None:
        return None

    def tile(i: int, image: np.ndarray) -> np.ndarray:
        return overlay(image, maps[i], max(1, 160 // len(image)))

    title = f"Where the network looked: Grad-CAM for the {which} class"
    of = f" Maps of {run.mistakes.layer}." if run.mistakes and run.mistakes.layer else ""
    note = f"{of} Bright: evidence for the class in italics."
    return _gallery(run, title, tile, note, stress=which)


def _gallery(
    run: Run,
    title: str,
    tile: Callable[[int, np.ndarray], np.ndarray],
    note: str,
    *,
    stress: str = "",
) -> Figure | None:
    images = run.pictures("images")
    if not len(images) or run.mistakes is None:
        return None
    pitch = 1 + 2 * LINE + 0.1
    rows = -(-len(images) // COLUMNS)
    made = figure(title, how_chosen(run) + note, size=(8, 0.85 + rows * pitch * 1.47))
    axes = pictures(made, width=1.06 * COLUMNS, height=rows * pitch)
    for i, (image, mistake) in enumerate(zip(images, run.mistakes.shown, strict=True)):
        row, column = divmod(i, COLUMNS)
        _put(axes, tile(i, image), 1.06 * column, row * pitch)
        _caption(axes, 1.06 * column, row * pitch + 1, mistake, stress)
    return made


def _caption(axes: Axes, left: float, top: float, mistake: Mistake, stress: str) -> None:
    lines: Sequence[tuple[str, str, str]] = (
        (f"{shown(mistake.predicted, 14)}, {sure(mistake.confidence)}", INK, "predicted"),
        (f"is {shown(mistake.true, 14)}  #{mistake.place}", MUTED, "true"),
    )
    for line, (text, ink, which) in enumerate(lines):
        slant = "italic" if which == stress else "normal"
        _label(axes, left, top + 0.02 + line * LINE, text, ink=ink, slant=slant)


def _put(axes: Axes, image: np.ndarray, left: float, top: float) -> None:
    axes.imshow(image, extent=(left, left + 1, top + 1, top), interpolation="nearest")
    axes.autoscale(False)


def _label(
    axes: Axes,
    left: float,
    top: float,
    text: str,
    *,
    ink: str,
    slant: str = "normal",
    above: bool = False,
) -> None:
    side = "bottom" if above else "top"
    axes.text(left, top, text, color=ink, va=side, fontsize=8.5, fontstyle=slant)
