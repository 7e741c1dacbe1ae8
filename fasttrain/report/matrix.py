"""The confusion matrix of many classes: the pairs confused most, and the whole as one drawing.

A table of a hundred columns cannot be read. A drawing shows all at once, and its names stay sharp
when the page is enlarged.
"""

from __future__ import annotations

import numpy as np

from ..errors import shown
from .page import Cell, captioned, esc, table
from .read import Run
from .words import percent, whole

WORST = 25  # pairs that are listed
NAMED = 200  # pairs that say what they are when pointed at
LEVELS = 12  # shades: a path for each is a tenth of the size of a rectangle for each cell
LETTERS, LETTER, LINE = 24, 0.5, 0.8  # of a name; width of a letter and its height, in cells


def large_confusion(run: Run) -> str:
    """Return the pairs confused most, and the whole matrix; empty without a confusion matrix."""
    if not run.confusion.size:
        return ""
    return _worst(run) + _drawing(run)


def _pairs(run: Run, count: int) -> list[tuple[int, int]]:
    """Return (true, predicted) of the mistakes made most often, the most frequent first."""
    wrong = run.confusion - np.diag(np.diag(run.confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    return [divmod(int(place), len(wrong)) for place in order if wrong.flat[place]]


def _worst(run: Run) -> str:
    of = run.confusion.sum(axis=1)
    rows: list[list[Cell]] = []
    for true, taken in _pairs(run, WORST):
        count = int(run.confusion[true, taken])
        names = [(esc(run.classes[i].name), None) for i in (true, taken)]
        share = count / of[true]
        rows.append([*names, (whole(count), float(count)), (percent(share, 1), share)])
    head = ("class", "taken for", "images", "share of the class")
    return table("The pairs that are confused most", head, rows, sortable=True) if rows else ""


def _drawing(run: Run) -> str:
    """Return the matrix as an SVG: a row for each true class, a column for each predicted one."""
    count = len(run.classes)
    names = [shown(row.name, LETTERS) for row in run.classes]
    margin = 1 + LETTER * max(map(len, names))
    caption = (
        f"Confusion matrix of {count:,} classes: a row for each true class, a column for each "
        "predicted one; the stronger a cell, the larger its share of the row's images"
    )
    rows = "".join(f'<text x="-.5" y="{i}.75">{esc(name)}</text>' for i, name in enumerate(names))
    columns = "".join(
        f'<text transform="translate({i}.75 -.5)rotate(-90)">{esc(name)}</text>'
        for i, name in enumerate(names)
    )
    view = f"{-margin:g} {-margin:g} {count + margin + 0.5:g} {count + margin + 0.5:g}"
    drawn = (
        f'<svg class="matrix" viewBox="{view}" role="img" aria-label="{esc(caption)}">'
        f'<rect class="sheet" width="{count}" height="{count}"/>{_cells(run.confusion)}'
        f'<g font-size="{LINE}"><g text-anchor="end">{rows}</g>{columns}</g>{_said(run)}</svg>'
    )
    return captioned(caption, drawn)


def _cells(confusion: np.ndarray) -> str:
    """Return a path for each shade; the square root makes the few per cent visible."""
    shares = confusion / confusion.sum(axis=1, keepdims=True).clip(1)
    levels = np.ceil(LEVELS * np.sqrt(shares)).astype(int)
    paths = []
    for level in range(1, LEVELS + 1):
        cells = "".join(f"M{x} {y}h1v1h-1z" for y, x in np.argwhere(levels == level))
        if cells:
            paths.append(f'<path fill-opacity="{level / LEVELS:.2f}" d="{cells}"/>')
    return "".join(paths)


def _said(run: Run) -> str:
    """Return what is shown when one of the pairs confused most is pointed at."""
    of = run.confusion.sum(axis=1)
    found = []
    for true, taken in _pairs(run, NAMED):
        names = [shown(run.classes[i].name, LETTERS) for i in (true, taken)]
        text = f"{names[0]} taken for {names[1]}: {run.confusion[true, taken]:,} of {of[true]:,}"
        found.append(
            f'<rect x="{taken}" y="{true}" width="1" height="1"><title>{esc(text)}</title></rect>'
        )
    return f'<g class="said">{"".join(found)}</g>'
