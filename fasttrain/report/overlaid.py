"""The charts that overlay several runs, by epoch and by training time.

Runs of different lengths share one axis; each curve ends with its run.
"""

from __future__ import annotations

from collections.abc import Sequence

from .charts import Spec, Values, axis, drawable, line, spec
from .rates import rates
from .read import Run
from .records import Row
from .words import smoothing

LINE_STYLES = 6  # line styles in page.css


def held_out(runs: Sequence[Run]) -> str:
    """Return the split that the runs' accuracies are of: test, val, or held-out if they differ."""
    found = {run.held_out for run in runs}
    return found.pop() if len(found) == 1 else "held-out"


def chart_titles(runs: Sequence[Run]) -> dict[str, str]:
    """Return the title of each chart, in the order of the page."""
    held = held_out(runs).capitalize()
    return {
        "test_accuracy": f"{held} accuracy",
        "time": f"{held} accuracy against training time",
        "train_loss": "Training loss",
        "test_loss": f"{held} loss",
        "lr": "Learning rate",
    }


def curves(runs: list[Run]) -> dict[str, Spec]:
    """Return the overlaid charts: by epoch, and accuracy by seconds of training."""
    share, nats = (
        axis("images classified correctly (%)", "percent"),
        "cross-entropy (nats per image)",
    )
    loss = axis(nats, "loss", log=True)
    epochs = sorted({row.epoch for run in runs for row in run.rows})
    if not epochs:
        return {}
    kinds = {"test_accuracy": share, "train_loss": loss, "test_loss": loss}
    if any(map(smoothing, runs)):
        own = "cross-entropy, each with its own label smoothing (nats per image)"
        kinds["train_loss"] = axis(own, "loss", log=True)
    found = {name: _by_epoch(runs, name, epochs, y) for name, y in kinds.items()}
    found["lr"] = _rates(runs, axis("learning rate", "rate", log=True))
    found["time"] = _by_time(runs, share)
    return drawable({name: found[name] for name in chart_titles(runs)})


def _by_epoch(runs: list[Run], name: str, epochs: list[int], y: Spec) -> Spec:
    series = []
    for i, (label, run) in enumerate(zip(names(runs), runs, strict=True)):
        at = {row.epoch: getattr(row, name) for row in run.rows}
        values: Values = [at.get(epoch) for epoch in epochs]
        series.append(line(label, f"run{i % LINE_STYLES}", values))
    made = spec(
        f"{chart_titles(runs)[name]} by epoch", axis("epoch", "epoch"), epochs, y, series, []
    )
    return made | {"rest": None}  # at rest, each run shows its own last value


def _rates(runs: list[Run], y: Spec) -> Spec:
    """Return the chart of the rates; each run has a value at every x of any run."""
    drawn = [rates(run) for run in runs]
    epochs = sorted({round(epoch, 3) for found in drawn for epoch in found.epochs})
    series = [
        line(label, f"run{i % LINE_STYLES}", [found.at(x) for x in epochs], step=found.stairs)
        for i, (label, found) in enumerate(zip(names(runs), drawn, strict=True))
    ]
    return spec("Learning rate by epoch", axis("epoch", "epoch"), epochs, y, series, []) | {
        "rest": None
    }


def _by_time(runs: list[Run], y: Spec) -> Spec:
    clocks = [_clock(run.rows) for run in runs]
    moments = sorted({moment for clock in clocks for moment in clock})
    series = [
        line(label, f"run{i % LINE_STYLES}", [clock.get(moment) for moment in moments], join=True)
        for i, (label, clock) in enumerate(zip(names(runs), clocks, strict=True))
    ]
    x = axis("training time (s)", "seconds")
    return spec(chart_titles(runs)["time"], x, moments, y, series, []) | {"rest": None}


def _clock(rows: list[Row]) -> dict[float, float]:
    """Map seconds of training to held-out accuracy, up to the first epoch without a time."""
    passed, at = 0.0, {}
    for row in rows:
        passed += row.seconds
        if passed != passed:
            break
        at[round(passed, 3)] = row.test_accuracy
    return at


def names(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run: that of its folder, or its path if two folders share a name."""
    own = [run.name for run in runs]
    return [
        name if own.count(name) == 1 else str(run.path) for name, run in zip(own, runs, strict=True)
    ]
