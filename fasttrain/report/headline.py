"""The first screen of a run's page: what came out, in how long, on what, by which command."""

from __future__ import annotations

import math

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
    moment,
    percent,
    points,
    rate,
    unfinished,
    whole,
)


def headline(run: Run) -> str:
    """What came out, in how long, on what, by which command."""
    best, recipe = run.best, run.recipe
    name, data = (TITLES.get(str(recipe.get(k)), recipe.get(k)) for k in ("recipe", "dataset"))
    kicker = " on ".join(str(word) for word in (name, data) if word)
    big, said = (percent(best.test_accuracy), _said(run)) if best else (MISSING, _said(run))
    date = moment(run.environment.get("date", ""))
    command = run.environment.get("command")
    shown = command_line(str(command)) if command else ""
    fine = " ".join(_fine_print(run))
    notes = "".join(f"<li>{esc(note)}</li>" for note in _notes(run))
    return f"""<header>
<h1>{esc(run.name)}</h1>
<p class="muted">{esc(" · ".join(filter(None, (kicker, date))))}</p>
<p class="big"><strong>{big}</strong><span>{esc(said)}</span></p>
{f'<p class="lead">{esc(_against_source(run))}</p>' if is_mission(run) and run.summary else ""}
{facts(_facts(run))}
{f'<p class="fine">{esc(fine)}</p>' if fine else ""}
{shown}
{f'<ul class="notes">{notes}</ul>' if notes else ""}
</header>"""


def _said(run: Run) -> str:
    planned = run.recipe.get("epochs", "?")
    if run.best is None:
        return "no test accuracy is a number" if run.rows else "no epoch has ended yet"
    so_far = "" if run.summary else " so far"
    return f"best test accuracy{so_far}, in epoch {run.best.epoch} of {planned}"


def _notes(run: Run) -> list[str]:
    if not unfinished(run):
        return run.notes
    done = f"{len(run.rows)} of {run.recipe.get('epochs', '?')} epochs"
    return [f"This run is not finished: this is what there is after {done}.", *run.notes]


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
    """The few numbers that belong beside the accuracy; those that are known."""
    summary, last = run.summary, run.rows[-1] if run.rows else None
    known = [
        (
            "Latest accuracy" if unfinished(run) else "Final accuracy",
            percent(last.test_accuracy) if last else MISSING,
        ),
        ("With test-time flips", percent(fact(summary, "final_test_accuracy_with_flips"))),
        ("Time in all", duration(fact(summary, "total_seconds"))),
        (_to_target(run), duration(fact(summary, "seconds_to_target"))),
        ("Throughput", f"{whole(fact(summary, 'images_per_second'))} images/s"),
        ("FLOP utilisation", percent(fact(summary, "mfu"), 1)),
        ("Parameters", whole(fact(summary, "model_parameters"))),
        ("First learning rate", rate(rates.first(run))),
        ("Hardware", hardware(run)),
    ]
    return [(name, text) for name, text in known if not text.startswith(MISSING)]


def _to_target(run: Run) -> str:
    target = fact(run.recipe, "target_accuracy")
    return f"Time to {percent(target)}" if math.isfinite(target) else "Time to the target"


def _fine_print(run: Run) -> list[str]:
    """What a reader of the facts should know: by what was chosen, and what is measured."""
    said = []
    if run.best:
        fell = run.recipe.get("scheduler", "plateau") == "plateau"
        too = ", and so was when the learning rate falls" if fell else ""
        said.append(
            f"The best epoch was chosen by the accuracy on these same test images{too}: "
            "on new images, expect slightly less."
        )
    if math.isfinite(fact(run.summary, "seconds_to_target")):
        said.append(f"{_to_target(run)} runs from the data in memory to the end of training.")
    if math.isfinite(fact(run.summary, "mfu")):
        said.append(
            "FLOP utilisation is the network's own arithmetic per second of training, as a share "
            "of the rate at which this device multiplies large matrices."
        )
    return said
