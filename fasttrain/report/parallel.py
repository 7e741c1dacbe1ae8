"""The picture of what differs between many recipes: parallel coordinates, a line for each run.

A table of thirty runs says what each value was; here one sees which values went with which result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import shown
from .ordered import setting
from .overlaid import held_out, names
from .page import captioned, esc
from .read import Run
from .words import cut, percent, plain

FEWEST = 3  # runs worth a picture
MOST = 9  # axes of fields; further ones stand in the table alone
WIDTH, HEIGHT, TOP, SIDE, BOTTOM = 1000, 340, 54, 70, 20
NEAR = 15  # units between the labels of an axis, at least
LETTERS = 13  # of a label
RATIO = 8  # of the largest to the smallest value, from which on an axis is logarithmic
ZERO = 0.12  # share of a logarithmic axis below its smallest positive value, where 0 stands


class Axis(NamedTuple):
    """An axis: its name, the place of each run from 0 (bottom) to 1, None if it has no value, and
    the labels at their places."""

    name: str
    places: list[float | None]
    labels: list[tuple[float, str]]


def drawing(runs: Sequence[Run], differing: Sequence[str]) -> str:
    """Return the picture of the fields named `differing`; empty for few runs or no difference."""
    if len(runs) < FEWEST or not differing:
        return ""
    accuracies = [run.best.test_accuracy if run.best else None for run in runs]
    axes = [_of_field(runs, name) for name in differing[:MOST]]
    axes.append(_numeric(f"best {held_out(runs)} accuracy", accuracies, percent))
    result, titles = axes[-1].places, names(runs)
    order = sorted(range(len(runs)), key=lambda i: -1.0 if result[i] is None else result[i] or 0.0)
    caption = _caption(titles[order[-1]], len(differing) - MOST)
    lines = "".join(_run(titles[i], i, axes, best=i == order[-1]) for i in order)
    drawn = "".join(_axis(axis, _across(i, axes), i) for i, axis in enumerate(axes))
    return captioned(
        caption,
        f'<svg class="parallel" viewBox="0 0 {WIDTH} {TOP + HEIGHT + BOTTOM}" role="img" '
        f'aria-label="{esc(caption)}">{lines}{drawn}</svg>',
    )


def _caption(best: str, more: int) -> str:
    also = f" {more} more fields differ: see the table." if more > 0 else ""
    return (
        "A line for each run, through its values: blue for the highest accuracy, orange for the "
        f"lowest. The thick line is the best run, {best}. Point at a line to read it.{also}"
    )


def _of_field(runs: Sequence[Run], name: str) -> Axis:
    values = [setting(run, name) for run in runs]
    if all(_is_number(value) for value in values):
        return _numeric(name, values, plain)
    ranked = sorted({plain(v) for v in values}, key=lambda text: (not _digits(text), text))
    last = max(len(ranked) - 1, 1)
    at = {text: i / last for i, text in enumerate(ranked)}
    return Axis(name, [at[plain(v)] for v in values], [(at[text], text) for text in ranked])


def _digits(text: str) -> bool:
    return text.replace(".", "", 1).replace("e-", "", 1).isdecimal()


def _numeric(name: str, values: Sequence[float | None], form: Callable[[float], str]) -> Axis:
    """Return an axis of numbers, logarithmic if they are far apart; 0 is then below the others."""
    known = sorted({value for value in values if value is not None and math.isfinite(value)})
    positive = [value for value in known if value > 0]
    log = bool(positive) and known[0] >= 0 and positive[-1] / positive[0] >= RATIO
    scale = math.log if log else float
    start = ZERO if log and known[0] == 0 else 0.0
    ends = [scale(value) for value in ((positive if log else known) or [0.0])]

    def place(value: float) -> float:
        if start and value == 0:
            return 0.0
        part = (scale(value) - ends[0]) / (ends[-1] - ends[0]) if ends[-1] > ends[0] else 0.5
        return start + (1 - start) * part

    found = [place(v) if v is not None and math.isfinite(v) else None for v in values]
    return Axis(name, found, [(place(value), form(value)) for value in known])


def _label(text: str) -> str:
    """Return a value in a few letters: of a path the end, of other texts the beginning."""
    return cut(text, LETTERS) if "/" in text else shown(text, LETTERS)


def _is_number(value: object) -> bool:
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    return fits and math.isfinite(value)  # type: ignore[arg-type]


def _across(number: int, axes: Sequence[Axis]) -> float:
    return SIDE + number * (WIDTH - 2 * SIDE) / max(len(axes) - 1, 1)


def _down(place: float) -> float:
    return TOP + (1 - place) * HEIGHT


def _run(title: str, number: int, axes: Sequence[Axis], *, best: bool) -> str:
    """Return the line of a run, which says its values when it is pointed at."""
    there = [(i, axis.places[number]) for i, axis in enumerate(axes)]
    points = [f"{_across(i, axes):.1f} {_down(at):.1f}" for i, at in there if at is not None]
    share, values = axes[-1].places[number], []
    for axis in axes:
        at = axis.places[number]
        values += [f"{axis.name} {text}" for place, text in axis.labels if place == at]
    said = f"{title}: {', '.join(values)}"
    style = f' style="--share:{share:.3f}"' if share is not None else ""
    kind = "known" if share is not None else "unknown"
    path = f"M{'L'.join(points)}"
    return (
        f'<g class="{kind}{" best" if best else ""}"{style}><title>{esc(said)}</title>'
        f'<path class="near" d="{path}"/><path d="{path}"/></g>'
    )


def _axis(axis: Axis, x: float, number: int) -> str:
    """Return an axis with its name above, and as many of its labels as have room."""
    texts, taken = [], list[float]()
    ends = [label for label in axis.labels if label[0] in (0.0, 1.0)]
    for place, text in [*ends, *axis.labels]:
        y = _down(place)
        if all(abs(y - other) >= NEAR for other in taken):
            taken.append(y)
            texts.append(f'<text x="{x + 5:.1f}" y="{y + 4:.1f}">{esc(_label(text))}</text>')
    high = TOP - (34 if number % 2 else 16)  # by turns, so that long names have room
    return (
        f'<path class="axis" d="M{x:.1f} {TOP}v{HEIGHT}"/>{"".join(texts)}'
        f'<text class="name" x="{x:.1f}" y="{high}">{esc(axis.name)}</text>'
    )
