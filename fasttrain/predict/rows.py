"""Predictions as text, a row each: csv, json, jsonl, or a table for people.

Rows are made as predictions come, so no format needs to know how many there will be.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..errors import shown
from ..storage.encode import to_json
from .prediction import Prediction

UNSURE = "unsure"  # what the table has for a class below the threshold
WIDEST = 24  # letters of a class's name in the table
LONGEST = 500  # letters of a path in the table


def texts(
    predictions: Iterable[Sequence[Prediction]], form: str, *, top: int, classes: Sequence[str]
) -> Iterator[str]:
    """The whole output in pieces: the first at once, then one for each of `predictions`, and what
    has to follow the last row."""
    if form == "csv":
        numbers = range(1, top + 1) if top > 1 else ()
        ranked = [name for k in numbers for name in (f"class_{k}", f"probability_{k}")]
        yield _line(["path", "class", "probability", *ranked, "error"])
        yield from ("".join(_csv(row, top) for row in rows) for rows in predictions)
    elif form == "jsonl":
        yield from ("".join(f"{_json(row)}\n" for row in rows) for rows in predictions)
    elif form == "json":
        before = "[\n"
        for rows in filter(None, predictions):
            yield before + ",\n".join(map(_json, rows))
            before = ",\n"
        yield "[]\n" if before == "[\n" else "\n]\n"
    else:
        width = min(WIDEST, max(len(shown(name, WIDEST)) for name in (*classes, UNSURE)))
        yield from ("".join(_table(row, top, width) for row in rows) for rows in predictions)


def _line(cells: Sequence[Any]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _csv(row: Prediction, top: int) -> str:
    ranked: list[Any] = []
    if top > 1:
        ranked = [cell for name, p in row.top for cell in (name, _digits(p))] or [""] * (2 * top)
    probability = "" if row.probability is None else _digits(row.probability)
    return _line([row.path, row.class_name, probability, *ranked, row.error])


def _json(row: Prediction) -> str:
    return to_json(
        {
            "path": row.path,
            "class": row.class_name,
            "probability": _rounded(row.probability),
            "top": [{"class": name, "probability": _rounded(p)} for name, p in row.top],
            "error": row.error,
        }
    )


def _table(row: Prediction, top: int, width: int) -> str:
    path = shown(row.path, LONGEST)
    if row.error is not None:
        return f"{'-':{width}} {'-':>8}  {path}: {shown(row.error, LONGEST)}\n"
    name = UNSURE if row.class_name is None else shown(row.class_name, width)
    others = ", ".join(f"{shown(each, width)} {_percent(p)}" for each, p in row.top[1:])
    others = f"  ({others})" if top > 1 else ""
    return f"{name:{width}} {_percent(row.probability or 0.0):>8}  {path}{others}\n"


def _digits(probability: float) -> str:
    return f"{probability:.6g}"


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else float(_digits(probability))


def _percent(probability: float) -> str:
    return f"{100 * probability:.2f} %"
