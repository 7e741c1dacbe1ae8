"""The figures of curves: loss, accuracy, learning rate, range test, train against test.

Each function takes a Run and returns a Figure, or None if the run has no data for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from .charts import averaged
from .rates import first, rates
from .read import Run
from .records import Sweep
from .style import ACCENT, INK, MUTED, PAPER, RULE, TEST_LINE, TRAIN_LINE, Style, figure, plot
from .words import (
    best_in_words,
    ending,
    listed,
    loss_names,
    losses_in_words,
    points,
    rate,
    smoothing,
)

if TYPE_CHECKING:
    from .style import Axes, Figure


def loss(run: Run) -> Figure | None:
    """Draw training and held-out loss by epoch."""
    if not run.rows:
        return None
    made = figure("Loss", f"{losses_in_words(run)} {drops_in_words(run)}".strip())
    axes = plot(made, x="epoch", y="cross-entropy (nats per image)")
    _pair(axes, run, "loss", 1.0, loss_names(run))
    _from_zero(axes, [loss for row in run.rows for loss in (row.train_loss, row.test_loss)])
    _legend(axes)
    return made


def accuracy(run: Run) -> Figure | None:
    """Draw training and held-out accuracy by epoch, with the best epoch marked."""
    if not run.rows:
        return None
    best = run.best
    made = figure("Accuracy", f"{best_in_words(run)} {drops_in_words(run)}".strip())
    axes = plot(made, x="epoch", y="images classified correctly (%)")
    _pair(axes, run, "accuracy", 100.0, ("train", run.held_out))
    if name := averaged(run):
        values = [100 * row.ema_test_accuracy for row in run.rows]
        axes.plot([row.epoch for row in run.rows], values, color=ACCENT, lw=1.6, label=name)
    if best:
        place = best.epoch, 100 * best.test_accuracy
        axes.plot(*place, "o", ms=9, mfc="none", mec=INK, mew=1.4, label="_best")
    _legend(axes)
    return made


def lr(run: Run) -> Figure | None:
    """Draw the learning rate at every step on a log axis, with the plateau's drops marked."""
    drawn, start = rates(run), first(run)
    values = np.array([value if value > 0 else np.nan for value in drawn.values])
    if not np.isfinite(values).any():
        return None
    scheduler = run.recipe.get("scheduler")
    by = f"Scheduler: {scheduler}. " if scheduler else ""
    made = figure("Learning rate", f"{by}It starts at {rate(start)}." if start > 0 else by)
    axes = plot(made, x="epoch", y="learning rate")
    style = TEST_LINE | ({"drawstyle": "steps-pre"} if drawn.stairs else {})
    axes.semilogy(drawn.epochs, values, **style)
    axes.yaxis.set_major_formatter(_power)
    axes.margins(y=0.12)
    middle = (drawn.epochs[0] + drawn.epochs[-1]) / 2
    for row in run.drops:
        axes.axvline(row.epoch - 1, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        text = f"after epoch {row.epoch - 1}:\n{rate(row.lr)}"
        # On the side that has room; opaque, because it may cross an earlier dotted line.
        place: Style = {"ha": "right"} if row.epoch > middle else {"ha": "left", "va": "bottom"}
        shift = (-9, 1) if row.epoch > middle else (7, 3)
        box: Style = {"bbox": {"facecolor": PAPER, "edgecolor": "none", "pad": 1}}
        at = (row.epoch - 1, row.lr)
        axes.annotate(text, at, shift, textcoords="offset points", **place, **box)
    _whole_epochs(axes)
    return made


def lr_finder(run: Run) -> Figure | None:
    """Draw the smoothed loss of the range test by learning rate, with suggestion and end."""
    sweep = run.sweep
    if sweep is None or not np.isfinite(sweep.losses).any():
        return None
    made = figure("Learning-rate range test", " ".join([ending(sweep), *sweep.notes]))
    smoothed = f"\nwith {smoothing(run)}" if smoothing(run) else ""
    axes = plot(made, x="learning rate", y=f"cross-entropy{smoothed} (nats per image)")
    if len(sweep.raw):
        axes.plot(sweep.lrs, sweep.raw, ".", color=MUTED, ms=4, alpha=0.6, label="each step")
    axes.semilogx(sweep.lrs, sweep.losses, **TEST_LINE, label="smoothed")
    axes.xaxis.set_major_formatter(_power)
    _limit(axes, sweep)
    axes.axvline(sweep.suggestion, color=ACCENT, linewidth=1.6, linestyle=(0, (6, 2, 1, 2)))
    text = f"suggestion {rate(sweep.suggestion)} "
    style: Style = {"color": ACCENT, "ha": "right", "transform": axes.get_xaxis_transform()}
    axes.text(sweep.suggestion, 0.04, text, **style)
    axes.plot(sweep.lrs[-1], sweep.losses[-1], "X", color=INK, ms=8, label="end of the test")
    _legend(axes)
    return made


def train_vs_test(run: Run) -> Figure | None:
    """Draw held-out accuracy against training accuracy, one dot per epoch."""
    if not run.rows:
        return None
    made = figure(gap_title(run), gap_in_words(run), size=(6.5, 6))
    axes = plot(made, x="training accuracy (%)", y=f"{run.held_out} accuracy (%)", grid="both")
    train, test = (
        [100 * getattr(row, f"{half}_accuracy") for row in run.rows] for half in ("train", "test")
    )
    axes.axline((100, 100), slope=1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(train, test, color=RULE, linewidth=1.2, zorder=1.5)
    epochs = [row.epoch for row in run.rows]
    style: Style = {"cmap": "viridis_r", "s": 34, "edgecolors": INK, "linewidths": 0.5, "zorder": 3}
    dots = axes.scatter(train, test, c=epochs, **style)
    if np.isfinite([train, test]).any():
        limits = np.nanmin([train, test]) - 2, np.nanmax([train, test]) + 2
        axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.text(0.03, 0.95, "dashed: equal accuracy", color=MUTED, transform=axes.transAxes)
    bar = made.colorbar(dots, label="epoch", shrink=0.8, aspect=30)
    _whole_epochs(bar.ax, axis="y")
    return made


def drops_in_words(run: Run) -> str:
    """Describe when the learning rate fell, for a figure that marks it by dotted lines."""
    drops = [row.epoch - 1 for row in run.drops]
    plural = "s" if len(drops) > 1 else ""
    return f"Dotted: the learning rate falls, after epoch{plural} {listed(drops)}." if drops else ""


def gap_title(run: Run) -> str:
    """Return the title of the figure and of the chart of training against held-out accuracy."""
    return f"Training against {run.held_out} accuracy"


def gap_in_words(run: Run) -> str:
    """Describe how far training accuracy is from held-out accuracy at the end."""
    last, held = run.rows[-1], run.held_out
    gap = last.train_accuracy - last.test_accuracy
    if not np.isfinite(gap):
        return ""
    if points(gap) == points(0):
        return f"After epoch {last.epoch}, training and {held} accuracy are the same."
    order = "above" if gap > 0 else "below"
    return f"After epoch {last.epoch}, training accuracy is {points(gap)} {order} {held} accuracy."


def _legend(axes: Axes) -> None:
    """Put the legend above the axes: inside, no corner is empty for every run."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.1)


def _pair(
    axes: Axes,
    run: Run,
    what: str,
    factor: float,
    names: tuple[str, str],
) -> None:
    """Draw training and held-out line of `what`, times `factor`, and the drops of the rate."""
    epochs = [row.epoch for row in run.rows]
    marker = "o" if len(run.rows) == 1 else None  # a line of one point is invisible
    for half, name, style in zip(("train", "test"), names, (TRAIN_LINE, TEST_LINE), strict=True):
        values = [factor * getattr(row, f"{half}_{what}") for row in run.rows]
        axes.plot(epochs, values, label=name, marker=marker, **style)
    for row in run.drops:
        axes.axvline(row.epoch - 1, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    _whole_epochs(axes)


def _whole_epochs(axes: Axes, *, axis: Literal["x", "y"] = "x") -> None:
    axes.locator_params(axis=axis, integer=True, min_n_ticks=1)  # one epoch has one tick


def _power(value: float, _: float) -> str:
    """Format a tick of a log axis in plain digits: the style turns formulas off."""
    return f"{value:g}"


def _from_zero(axes: Axes, values: list[float]) -> None:
    """Make the axis start at 0 and end a little above all values."""
    axes.set_ylim(0, 1.06 * max(filter(np.isfinite, values), default=1.0) or 1.0)


def _limit(axes: Axes, sweep: Sweep) -> None:
    """Limit the axis to the smoothed curve: single steps may lie far outside."""
    finite = sweep.losses[np.isfinite(sweep.losses)]
    spread = float(np.ptp(finite)) or 1.0
    axes.set_ylim(finite.min() - 0.15 * spread, finite.max() + 0.15 * spread)
