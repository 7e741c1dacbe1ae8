"""The page's sections of numbers: curves, range test, time, and all details.

Each function takes a Run and returns HTML, empty if the run has no data for it.
"""

from __future__ import annotations

import math

import numpy as np

from .charts import Spec
from .curves import gap_in_words, gap_title
from .page import Cell, chart, entries, esc, section, table
from .read import Run
from .records import Row
from .words import (
    best_in_words,
    duration,
    ending,
    flat,
    listed,
    losses_in_words,
    nats,
    percent,
    rate,
    share_sum,
    smoothing,
    whole,
)

NO_SCRIPT = "<p>The curves need JavaScript. All epochs are below, in numbers.</p>"


def curves(run: Run, charts: dict[str, Spec]) -> str:
    """Return everything by epoch, as charts and in numbers."""
    if not run.rows:
        return ""
    fell = listed([row.epoch - 1 for row in run.drops])
    plural = "s" if len(run.drops) > 1 else ""
    lead = f"Dotted lines: the learning rate fell after epoch{plural} {fell}. " if fell else ""
    lead += "Point at a curve, or focus it and press the arrow keys, to read its values."
    notes = {
        "accuracy": best_in_words(run),
        "loss": losses_in_words(run),
        "gap": gap_in_words(run),
    }
    titles = {
        "accuracy": "Accuracy",
        "loss": "Loss",
        "gap": gap_title(run),
        "lr": "Learning rate",
    }
    drawn = "\n".join(chart(n, t, notes.get(n, "")) for n, t in titles.items() if n in charts)
    smoothed = f"train loss ({smoothing(run)})" if smoothing(run) else "train loss"
    head = [smoothed if name == "train loss" else name for name in _EPOCH_HEAD]
    head = [name.replace("test", run.held_out) for name in head]
    if any(math.isfinite(row.balanced_accuracy) for row in run.rows):
        head += ["balanced accuracy", "macro F1"]
    numbers = table("Every epoch", head, (_epoch(row)[: len(head)] for row in run.rows))
    opened = f"<details><summary>Every epoch in numbers</summary>{numbers}</details>"
    return section(
        "curves",
        "Curves",
        lead,
        f'<div class="charts">{drawn}</div>\n<noscript>{NO_SCRIPT}</noscript>\n{opened}',
    )


_EPOCH_HEAD = (
    "epoch",
    "last rate",
    "train loss",
    "train accuracy",
    "test loss",
    "test accuracy",
    "time",
    "images/s",
    "data wait",
)


def _epoch(row: Row) -> list[Cell]:
    texts = (
        str(row.epoch),
        rate(row.lr),
        nats(row.train_loss),
        percent(row.train_accuracy),
        nats(row.test_loss),
        percent(row.test_accuracy),
        duration(row.seconds),
        whole(row.images_per_second),
        duration(row.data_wait_seconds),
        percent(row.balanced_accuracy),
        percent(row.macro_f1),
    )
    values = (*row[:9], row.balanced_accuracy, row.macro_f1)
    return list(zip(texts, values, strict=True))


def range_test(run: Run, charts: dict[str, Spec]) -> str:
    """Return the learning-rate range test."""
    if run.sweep is None:
        return ""
    rules = [f"{name} {rate(lr)}" for name, lr in run.sweep.suggestions.items()]
    others = f" All rules: {listed(rules)}." if len(rules) > 1 else ""
    lead = " ".join([ending(run.sweep) + others, *run.sweep.notes])
    drawn = chart("range", "Loss while the rate rises") if "range" in charts else ""
    return section("rate", "Learning-rate range test", lead, f'<div class="charts">{drawn}</div>')


def ledger(run: Run) -> str:
    """Return where the time went, as one bar and a table."""
    parts = share_sum(run.summary.get("ledger") or {})
    if not parts:
        return ""
    total = sum(seconds for _, seconds in parts)
    tones = np.linspace(100, 15, len(parts)).round().astype(int).tolist()
    bar = "".join(
        f'<div class="part" style="--tone:{tone}%;flex:{seconds / total:.6f}"></div>'
        for tone, (_, seconds) in zip(tones, parts, strict=True)
    )
    rows = [
        [
            (f'<span class="swatch part" style="--tone:{tone}%"></span>{esc(name)}', None),
            (duration(seconds), seconds),
            (percent(seconds / total, 1), seconds),
        ]
        for tone, (name, seconds) in zip(tones, parts, strict=True)
    ]
    shown = table("Seconds by part", ("part", "time", "share"), rows)
    drawn = f'<div class="ledger" aria-hidden="true">{bar}</div>'
    return section("time", "Where the time went", f"{duration(total)} in total.", drawn + shown)


def details(run: Run) -> str:
    """Return summary, environment and recipe in full."""
    kinds = {"Summary": run.summary, "Environment": run.environment, "Recipe": run.recipe}
    shown = "\n".join(entries(title, flat(found)) for title, found in kinds.items() if found)
    return section("details", "Details", "", shown) if shown else ""
