"""The page's section on the classes: a table of accuracies, and the confusion matrix.

It is separate from the other sections because it builds its own SVG and table cells.
"""

from __future__ import annotations

import numpy as np

from .matrix import large_confusion
from .page import Cell, captioned, esc, section, table
from .read import Run
from .records import ClassRow
from .words import MISSING, percent, whole

MOST_CELLS = 20  # classes whose matrix is a table


def classes(run: Run) -> str:
    """Return the section: accuracy per class with its interval, and the confusion matrix."""
    if not run.classes:
        return ""
    head = ("class", "accuracy", "95 % interval", "correct", "images", "most often taken for")
    low = min((row.low for row in run.classes if np.isfinite(row.low)), default=0.0)
    floor = int(10 * max(0.0, low)) / 10
    rows = [_class(row, _rival(run, i), floor) for i, row in enumerate(run.classes)]
    lead = f"The bars reach from {percent(floor, 0)} to 100 %. Press a column's name to sort by it."
    caption = f"{run.analysed.title()} accuracy per class, its recall, with its Wilson interval"
    shown = table(caption, head, rows, sortable=True)
    if len(run.classes) <= MOST_CELLS:
        return section("classes", "Classes", lead, shown + _confusion(run))
    # The few worst pairs and the drawing come before a table of many screens.
    summary = f"<summary>All {len(rows):,} classes in numbers</summary>"
    shown = f'<details>{summary}<p class="lead">{esc(lead)}</p>{shown}</details>'
    return section("classes", "Classes", "", large_confusion(run) + shown)


def _class(row: ClassRow, rival: str, floor: float) -> list[Cell]:
    interval = f"{percent(row.low, 1)} to {percent(row.high, 1)}"
    return [
        (esc(row.name), None),
        (percent(row.accuracy), row.accuracy),
        (f"{_interval(row, floor)}<span>{interval}</span>", row.low),
        (whole(row.correct), row.correct),
        (whole(row.images), row.images),
        (esc(rival), None),
    ]


def _interval(row: ClassRow, floor: float) -> str:
    if not np.isfinite([row.low, row.high, row.accuracy]).all():
        return ""
    low, high, at = (
        4 + 132 * (share - floor) / (1 - floor or 1) for share in (row.low, row.high, row.accuracy)
    )
    return (
        '<svg class="interval" width="140" height="16" aria-hidden="true">'
        '<line class="whole" x1="4" x2="136" y1="8" y2="8"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="8" y2="8"/>'
        f'<circle cx="{at:.1f}" cy="8" r="4"/></svg>'
    )


def _rival(run: Run, i: int) -> str:
    """Return the class that class `i` is most often mistaken for, and how often."""
    if not run.confusion.size:
        return MISSING
    wrong = run.confusion[i].copy()
    wrong[i] = 0
    return f"{run.classes[int(wrong.argmax())].name} ({wrong.max()})" if wrong.max() else MISSING


def _confusion(run: Run) -> str:
    if not run.confusion.size:
        return ""
    names = "".join(f'<th scope="col">{esc(row.name)}</th>' for row in run.classes)
    wrong = run.confusion - np.diag(np.diag(run.confusion))
    shades = np.sqrt(wrong / max(1, wrong.max()))
    rows = "\n".join(
        f'<tr><th scope="row">{esc(row.name)}</th>{_counts(run.confusion[i], shades[i], i)}</tr>'
        for i, row in enumerate(run.classes)
    )
    caption = "Confusion matrix: how many images of the row's class were taken for the column's"
    return captioned(
        caption,
        f'<table class="confusion" aria-label="Confusion matrix">\n'
        f"<thead><tr><td>true ↓ predicted →</td>{names}</tr></thead>\n"
        f"<tbody>{rows}</tbody></table>",
    )


def _counts(counts: np.ndarray, shades: np.ndarray, own: int) -> str:
    return "".join(
        f'<td class="hit">{count:,}</td>'
        if column == own
        else f'<td style="--share:{shade:.2f}">{count or ""}</td>'
        for column, (count, shade) in enumerate(zip(counts.tolist(), shades.tolist(), strict=True))
    )
