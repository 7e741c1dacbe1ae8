"""The first screen of a run's page: its result, time, hardware and command.

It is separate from the sections because it has no chart and no table.
"""

from __future__ import annotations

import math
from pathlib import Path

from . import rates
from .page import command_line, esc, facts
from .read import Run
from .words import (
    MISSING,
    SOURCE_ACCURACY,
    TITLES,
    duration,
    fact,
    hardware,
    is_mission,
    metric,
    moment,
    percent,
    points,
    rate,
    unfinished,
    whole,
)


def headline(run: Run) -> str:
    """Return the header of the page as HTML: result, time, hardware and command."""
    best, recipe = run.best, run.recipe
    name, data = (TITLES.get(str(recipe.get(k)), recipe.get(k)) for k in ("recipe", "dataset"))
    data = Path(str(data)).name if data else data  # of a path
    subtitle = " on ".join(str(word) for word in (name, data) if word)
    once = fact(run.summary, "test_accuracy")
    big = percent(once if math.isfinite(once) else best.test_accuracy if best else math.nan)
    date = moment(run.environment.get("date", ""))
    command = run.environment.get("command")
    shown = command_line(str(command)) if command else ""
    fine = " ".join(_fine_print(run))
    notes = "".join(f"<li>{esc(note)}</li>" for note in _notes(run))
    return f"""<header>
<h1>{esc(run.name)}</h1>
<p class="muted">{esc(" · ".join(filter(None, (subtitle, date))))}</p>
<p class="big"><strong>{big}</strong><span>{esc(_best_in_words(run))}</span></p>
{f'<p class="lead">{esc(_against_source(run))}</p>' if is_mission(run) and run.summary else ""}
{facts(_facts(run))}
{f'<p class="fine">{esc(fine)}</p>' if fine else ""}
{shown}
{f'<ul class="notes">{notes}</ul>' if notes else ""}
</header>"""


def _best_in_words(run: Run) -> str:
    planned = run.recipe.get("epochs", "?")
    if run.best is None:
        return f"no {run.held_out} accuracy is finite" if run.rows else "no epoch has ended yet"
    so_far, held = "" if run.summary else " so far", run.held_out
    if "test_accuracy" in run.summary:
        return f"test accuracy of epoch {run.best.epoch} of {planned}, which {held} chose"
    by = metric(run.recipe.get("monitor"))
    if by != "accuracy":
        return f"{held} accuracy{so_far}, in epoch {run.best.epoch} of {planned}, the best by {by}"
    return f"best {held} accuracy{so_far}, in epoch {run.best.epoch} of {planned}"


def _notes(run: Run) -> list[str]:
    if not unfinished(run):
        return run.notes
    done = f"{len(run.rows)} of {run.recipe.get('epochs', '?')} epochs"
    return [f"This run is not finished. The page shows it after {done}.", *run.notes]


def _against_source(run: Run) -> str:
    final = fact(run.summary, "final_test_accuracy")
    if not math.isfinite(final):
        return ""
    order = "above" if final >= SOURCE_ACCURACY else "below"
    return (
        f"The source experiment ended at {percent(SOURCE_ACCURACY)} test accuracy; "
        f"this run ends at {percent(final)}, {points(final - SOURCE_ACCURACY)} {order} it."
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """Return the known ones of a few numbers to show under the accuracy."""
    summary, last = run.summary, run.rows[-1] if run.rows else None
    val = run.held_out == "val"
    known = [
        (
            f"{'Latest' if unfinished(run) else 'Final'}{' val' if val else ''} accuracy",
            percent(last.test_accuracy) if last else MISSING,
        ),
        *_by_val(run),
        (
            "With test-time flips, val" if val else "With test-time flips",
            percent(fact(summary, f"final_{run.held_out}_accuracy_with_flips")),
        ),
        *_unequal(run),
        ("Stopped early", _stopped_early(run)),
        ("Total time", duration(fact(summary, "total_seconds"))),
        (_to_target(run), duration(fact(summary, "seconds_to_target"))),
        ("Throughput", f"{whole(fact(summary, 'images_per_second'))} images/s"),
        ("FLOP utilisation", percent(fact(summary, "mfu"), 1)),
        ("Parameters", whole(fact(summary, "model_parameters"))),
        ("First learning rate", rate(rates.first(run))),
        ("Hardware", hardware(run)),
    ]
    return [(name, text) for name, text in known if not text.startswith(MISSING)]


def _by_val(run: Run) -> list[tuple[str, str]]:
    if "test_accuracy" not in run.summary or run.best is None:
        return []
    return [(f"Best {run.held_out} accuracy", percent(run.best.test_accuracy))]


def _unequal(run: Run) -> list[tuple[str, str]]:
    """Means in which every class counts the same, where they differ from the accuracy."""
    images = {row.images for row in run.classes}
    if len(images) < 2:
        return []
    of = "" if run.analysed == run.held_out else f", {run.analysed}"
    names = {f"Balanced accuracy{of}": "balanced_accuracy", f"Macro F1{of}": "macro_f1"}
    return [(title, percent(fact(run.summary, name))) for title, name in names.items()]


def _stopped_early(run: Run) -> str:
    """Why the run ended before its last epoch, or a dash."""
    early = bool(run.rows) and run.rows[-1].epoch < fact(run.recipe, "epochs")
    return str(run.summary.get("ended", MISSING)) if early else MISSING


def _to_target(run: Run) -> str:
    target = fact(run.recipe, "target_accuracy")
    return f"Time to {percent(target)}" if math.isfinite(target) else "Time to the target"


def _fine_print(run: Run) -> list[str]:
    """Explain how the best epoch was chosen and what the numbers measure."""
    lines = []
    if run.best:
        fell = run.recipe.get("scheduler", "plateau") == "plateau"
        by = metric(run.recipe.get("monitor"))
        too = ", as were the drops of the learning rate" if fell else ""
        if "test_accuracy" in run.summary:
            lines.append(
                f"The best epoch was chosen by the {by} on the {run.held_out} images{too}; "
                "the test images were evaluated once, at the end, with that epoch's weights."
            )
        else:
            lines.append(
                f"The best epoch was chosen by the {by} on these same {run.held_out} images{too}: "
                "expect a slightly lower accuracy on new images."
            )
    if math.isfinite(fact(run.summary, "seconds_to_target")):
        of = " The target is of the val images." if run.held_out == "val" else ""
        line = f"{_to_target(run)} counts from the data in memory to the end of training."
        lines.append(line + of)
    if math.isfinite(fact(run.summary, "mfu")):
        lines.append(
            "FLOP utilisation is the network's own arithmetic per second of training, as a share "
            "of the rate at which this device multiplies large matrices."
        )
    return lines
