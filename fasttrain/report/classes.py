"""The figures of the classes and of the time: accuracy bars, confusion matrix, ledger.

Each function takes a Run and returns a Figure, or None if the run has no data for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import shown
from .read import Run
from .style import INK, MUTED, PAPER, TEST, colours, figure, plot
from .words import duration, percent, share_sum

if TYPE_CHECKING:
    from .style import Axes, Figure

LETTERS = 24  # of a name
MOST_BARS, MOST_COUNTS, MOST_NAMES = 100, 20, 200  # classes that can still be read
HATCHES = ("", "////", "....", "\\\\\\\\", "xx", "--", "oo", "++", "||")


def class_bars(run: Run) -> Figure | None:
    """Draw the accuracy of each class, the best on top, with its 95 % interval."""
    rows = sorted(run.classes, key=lambda row: row.accuracy)[:MOST_BARS]
    if not rows:
        return None
    note = f"The {MOST_BARS} lowest. " if len(run.classes) > MOST_BARS else ""
    of = f"all {run.analysed} images of the class"
    note += f"Whiskers: Wilson 95 % interval. Right: correct answers of {of}."
    made = figure("Accuracy per class", note, size=(8, 1.6 + 0.32 * len(rows)))
    axes = plot(made, x=f"{run.analysed} accuracy (%)", y="", grid="x")
    places = np.arange(len(rows))
    shares, low, high = (
        100 * np.array([getattr(row, key) for row in rows]) for key in ("accuracy", "low", "high")
    )
    axes.barh(places, shares, height=0.62, color=TEST, alpha=0.35, edgecolor=TEST)
    errors = np.abs(np.stack([shares - low, high - shares]))
    axes.errorbar(shares, places, xerr=errors, fmt="o", color=INK, ms=4, capsize=3, lw=1.2)
    axes.set_yticks(places, [shown(row.name, LETTERS) for row in rows], color=INK)
    axes.set_xlim(0, 100)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    for place, row in enumerate(rows):
        text = f"  {percent(row.accuracy, 1)}  ({row.correct:,} of {row.images:,})"
        axes.text(100, place, text, va="center")
    return made


def confusion(run: Run) -> Figure | None:
    """Draw the confusion matrix: counts, coloured by their share of the row."""
    counts = run.confusion
    if not counts.size:
        return None
    note = "How many images of the row's class were taken for the column's class."
    side = min(24.0, 7 + 0.12 * max(0, len(counts) - MOST_COUNTS))
    made = figure("Confusion matrix", note, size=(side + 0.6, side))
    axes = plot(made, x="predicted class", y="true class", grid="")
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    # The square root makes the few per cent off the diagonal visible.
    drawn = axes.imshow(np.sqrt(shares), cmap="magma_r", vmin=0, vmax=1, interpolation="nearest")
    names = [shown(row.name, LETTERS) for row in run.classes]
    if len(names) <= MOST_NAMES:
        turn = 40 if len(names) <= MOST_COUNTS else 90
        axes.set_xticks(range(len(names)), names, rotation=turn, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    if len(names) <= MOST_COUNTS:
        _write_counts(axes, counts, np.sqrt(shares))
    else:
        axes.tick_params(labelsize=6)
    bar = made.colorbar(drawn, label="share of the row's images", shrink=0.7, aspect=30)
    ticks = np.array([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    bar.set_ticks(np.sqrt(ticks), labels=[percent(tick, 0) for tick in ticks])
    return made


def _write_counts(axes: Axes, counts: np.ndarray, shades: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            ink = PAPER if shades[row, column] > 0.5 else INK
            weight = "bold" if row == column else "normal"
            axes.text(column, row, f"{count:,}", color=ink, ha="center", va="center", weight=weight)


def ledger(run: Run) -> Figure | None:
    """Draw the wall-clock time as one bar with a part for each line of the ledger."""
    parts = share_sum(run.summary.get("ledger") or {})
    if not parts:
        return None
    whole = sum(seconds for _, seconds in parts)
    size = (8, 2.2 + 0.2 * ((len(parts) + 1) // 2))
    made = figure("Where the time went", f"{duration(whole)} in total.", size=size)
    axes = plot(made, x="time since the start (s)", y="", grid="x")
    fills = colours(np.linspace(0.25, 0.95, len(parts)), "cividis") / 255
    done = 0.0
    for i, (name, seconds) in enumerate(parts):
        style = {"color": fills[i], "hatch": HATCHES[i % len(HATCHES)], "edgecolor": INK}
        label = f"{name}: {duration(seconds)}, {percent(seconds / whole, 1)}"
        axes.barh(0, seconds, left=done, height=0.6, label=label, linewidth=0.7, **style)
        done += seconds
    axes.set(yticks=[], xlim=(0, whole), ylim=(-0.5, 0.5))
    axes.spines["left"].set_visible(False)
    axes.tick_params(colors=MUTED)
    made.legend(loc="outside lower left", ncols=2)
    return made
