"""The content of the page's charts as plain data: axes, series, marks and labels.

charts.js only draws them. What a chart shows and says is decided here, where it can be tested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .rates import first, rates
from .read import Run
from .records import Row, Sweep
from .words import listed, loss_names, nats, percent, rate, smoothing

Spec = dict[str, Any]
Values = Sequence[float | None]


def axis(name: str, form: str, *, log: bool = False, zero: bool = False) -> Spec:
    """Return an axis; `form` names the number format in scales.js: percent, loss, rate, ..."""
    return {"name": name, "format": form, "log": log, "zero": zero}


def line(name: str, style: str, values: Values, **more: bool) -> Spec:
    """Return a series; `style` is its class in page.css.

    `step`, `dots`, `loose` (does not set the scale) and `join` (bridges gaps) may be true.
    """
    return {"name": name, "style": style, "values": list(values), **more}


def spec(
    label: str, x: Spec, xs: Sequence[float], y: Spec, series: list[Spec], marks: list[Spec]
) -> Spec:
    """Return a chart; `label` is read by screen readers. At rest it shows its last values."""
    x = {**x, "values": list(xs), "short": x["name"].split(" (")[0]}
    if y["log"]:
        series = [{**s, "values": [_positive(v) for v in s["values"]]} for s in series]
    return {"label": label, "x": x, "y": y, "series": series, "marks": marks, "rest": len(xs) - 1}


def curves(run: Run) -> dict[str, Spec]:
    """Return the charts by epoch: accuracy, loss, gap, rate; none before an epoch ends."""
    if not run.rows:
        return {}
    return {
        "accuracy": _accuracy(run),
        "loss": _loss(run),
        "gap": _gap(run),
        "lr": _lr(run),
    }


def averaged(run: Run) -> str:
    """Name the curve of the averaged weights; '' if the run has none."""
    known = any(math.isfinite(row.ema_test_accuracy) for row in run.rows)
    return f"{run.held_out}, averaged weights" if known else ""


def drawable(specs: dict[str, Spec]) -> dict[str, Spec]:
    """Return the charts that have a finite value."""
    return {
        name: found
        for name, found in specs.items()
        if any(v is not None and v == v for s in found["series"] for v in s["values"])
    }


def range_test(run: Run, sweep: Sweep) -> Spec:
    """Return the chart of the range test: loss by learning rate, with the suggestion."""
    label = f"Range test: loss by learning rate; suggestion {rate(sweep.suggestion)}"
    series = [line("smoothed", "test", sweep.losses.tolist())]
    if len(sweep.raw):
        series.insert(0, line("each step", "raw", sweep.raw.tolist(), dots=True, loose=True))
    mark = {"x": sweep.suggestion, "style": "sign", "label": f"suggestion {rate(sweep.suggestion)}"}
    smoothed = f" with {smoothing(run)}" if smoothing(run) else ""
    y = axis(f"cross-entropy{smoothed} (nats per image)", "loss")
    x = axis("learning rate", "rate", log=True)
    made = spec(label, x, sweep.lrs.tolist(), y, series, [mark])
    made["rest"] = int(abs(sweep.lrs - sweep.suggestion).argmin())
    return made


def _accuracy(run: Run) -> Spec:
    last, marks, held = run.rows[-1], _drops(run), run.held_out
    ends = f"ends at {percent(last.train_accuracy)} train, {percent(last.test_accuracy)} {held}"
    if best := run.best:
        marks.append({"x": best.epoch, "y": best.test_accuracy, "style": "best"})
        ends += f", best {held} {percent(best.test_accuracy)} in epoch {best.epoch}"
    y = axis("images classified correctly (%)", "percent")
    series = _pair(run, "accuracy")
    if name := averaged(run):
        series.append(line(name, "raw", _column(run.rows, "ema_test_accuracy")))
    return spec(f"Accuracy by epoch; {ends}", *_epochs(run), y, series, marks)


def _loss(run: Run) -> Spec:
    last = run.rows[-1]
    ends = f"ends at {nats(last.train_loss)} train, {nats(last.test_loss)} {run.held_out}"
    y = axis("cross-entropy (nats per image)", "loss", zero=True)
    series = [s | {"name": n} for s, n in zip(_pair(run, "loss"), loss_names(run), strict=True)]
    return spec(f"Loss by epoch; {ends}", *_epochs(run), y, series, _drops(run))


def _gap(run: Run) -> Spec:
    values = [row.train_accuracy - row.test_accuracy for row in run.rows]
    name = f"train − {run.held_out}"
    y = axis(f"{name} (points)", "points", zero=True)
    label = f"Training accuracy minus {run.held_out} accuracy by epoch"
    return spec(label, *_epochs(run), y, [line(name, "train", values)], _drops(run))


def _lr(run: Run) -> Spec:
    drawn = rates(run)
    fell = listed([row.epoch - 1 for row in run.drops])
    label = f"Learning rate by epoch, from {rate(first(run))}"
    label += f"; it falls after epoch {fell}" if fell else ""
    # No dotted lines: the curve itself falls here, and they would cross its labels.
    marks = [
        {"x": row.epoch - 1, "y": row.lr, "style": "fall", "label": rate(row.lr)}
        for row in run.drops
    ]
    series = [line("rate", "test", drawn.values, step=drawn.stairs)]
    epochs = [round(epoch, 3) for epoch in drawn.epochs]
    y = axis("learning rate", "rate", log=True)
    return spec(label, axis("epoch", "epoch"), epochs, y, series, marks)


def _epochs(run: Run) -> tuple[Spec, list[float]]:
    return axis("epoch", "epoch"), [row.epoch for row in run.rows]


def _pair(run: Run, what: str) -> list[Spec]:
    names = {"train": "train", "test": run.held_out}
    return [line(names[half], half, _column(run.rows, f"{half}_{what}")) for half in names]


def _column(rows: list[Row], name: str) -> list[float]:
    return [getattr(row, name) for row in rows]


def _drops(run: Run) -> list[Spec]:
    return [{"x": row.epoch - 1, "style": "drop"} for row in run.drops]


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None
