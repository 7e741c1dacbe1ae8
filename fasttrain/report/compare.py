"""The comparison of several runs: a table in plain text, and a page with their curves.

The table holds the results, and of the recipes only the fields that differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import UsageError
from .files import check_form, write_whole
from .ordered import ordered, setting
from .overlaid import chart_titles, curves, held_out, names
from .page import Cell, chart, document, esc, scrolled, section
from .page import table as sorted_table
from .parallel import drawing
from .read import Run, read
from .words import MISSING, fact, hardware, listed, percent, plain, tenths, unfinished, whole

MANY = 5  # runs, from the next on a table has a row for each
CURVES = 12  # runs whose curves are drawn: with more no eye could follow one
OURS = re.compile(r"<title>\d+ runs of fasttrain</title>")


def compare(runs: Sequence[Path | Run], *, sort: str | None = None) -> str:
    """Return a plain-text table with a column for each run, or of many runs with a row for each.

    `sort` is what ordered() sorts by. Raises UsageError for fewer than two runs, and the errors of
    read().
    """
    found = _read(runs, sort)
    notes = [note for run in found for note in _notes(run)]
    if not differences(found):
        notes.insert(0, "the recipes are the same")
    return _text(names(found), table(found), notes)


def write_page(runs: Sequence[Path | Run], out: Path, *, sort: str | None = None) -> Path:
    """Write the page that compares the runs to `out`; return `out`.

    Raises the errors of compare(), and OutputError if `out` is any other file.
    """
    check_out(out)
    found = _read(runs, sort)
    return write_whole(out, page(found))


def check_out(out: Path) -> None:
    """Raise OutputError if `out` exists and is not an earlier page of this kind."""
    check_form(out, OURS)


def page(runs: list[Run]) -> str:
    """Return the whole page as HTML."""
    drawn_runs = runs if len(runs) <= CURVES else ordered(runs, "accuracy")[:CURVES]
    charts, titles, headings = curves(drawn_runs), names(runs), chart_titles(drawn_runs)
    drawn = "\n".join(chart(name, headings[name]) for name in charts)
    no_script = "<noscript><p>The curves need JavaScript.</p></noscript>"
    content = f'<div class="charts">{drawn}</div>{no_script}'
    notes = "".join(f"<li>{esc(note)}</li>" for run in runs for note in _notes(run))
    title = f"{len(runs)} runs of fasttrain"
    differing = [name for name, _ in differences(runs)]
    parallel = drawing(runs, differing)
    few = f"The {CURVES} best runs. " if len(runs) > CURVES else ""
    lead = f"{few}Point at a curve, or focus it and press the arrow keys, to read its values."
    body = f"""<header>
<h1 class="title">{title}</h1>
<p class="lead">{esc(listed(titles))}</p>
{f'<ul class="notes">{notes}</ul>' if notes else ""}
</header>
<main>
{section("table", "Results and differences", "", _html(titles, table(runs)))}
{section("differences", "What differs", "", parallel) if parallel else ""}
{section("curves", "Curves", lead, content) if charts else ""}
</main>
<footer><p>Drawn by fasttrain.</p></footer>"""
    return document(title, body, charts)


def table(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """Return the lines of the table: a name and a value for each run."""
    mixed = held_out(runs) == "held-out"
    lines = [(name, [value(run) for run in runs]) for name, value in _results(runs).items()]
    if mixed:
        lines.insert(0, ("held-out images", [run.held_out for run in runs]))
    return lines + differences(runs)


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return the recipe fields in which the runs differ; a run without a recipe has dashes."""
    fields = list(dict.fromkeys(name for run in runs for name in run.recipe))
    lines = [(name, [plain(setting(run, name)) for run in runs]) for name in fields]
    return [(name, values) for name, values in lines if len(set(values)) > 1]


def _read(runs: Sequence[Path | Run], sort: str | None) -> list[Run]:
    if len(runs) < 2:
        count = "one run" if runs else "no runs"
        raise UsageError(f"compare ({count}): needs at least two. Name another run.")
    found = [run if isinstance(run, Run) else read(run) for run in runs]
    return ordered(found, sort) if sort else found


def _notes(run: Run) -> list[str]:
    ongoing = ["this run is not finished"] if unfinished(run) else []
    return [f"{run.name}: {note}" for note in [*ongoing, *run.notes]]


def _best(run: Run) -> str:
    return percent(run.best.test_accuracy) if run.best else MISSING


def _final(run: Run) -> str:
    return percent(run.rows[-1].test_accuracy) if run.rows else MISSING


def _summary_fact(name: str, form: Callable[[float], str]) -> Callable[[Run], str]:
    return lambda run: form(fact(run.summary, name))


def _results(runs: list[Run]) -> dict[str, Callable[[Run], str]]:
    """Return the name of each result and the function that formats it for one run."""
    held = held_out(runs)
    once = {"test accuracy of that epoch": _summary_fact("test_accuracy", percent)}
    return {
        f"best {held} accuracy": _best,
        "in epoch": lambda run: str(run.best.epoch) if run.best else MISSING,
        **(once if any("test_accuracy" in run.summary for run in runs) else {}),
        f"final {held} accuracy": _final,
        "epochs done": lambda run: str(len(run.rows)),
        "total seconds": _summary_fact("total_seconds", tenths),
        "seconds of training": _summary_fact("train_seconds", tenths),
        "images/s": _summary_fact("images_per_second", whole),
        "hardware": hardware,
    }


def _text(titles: list[str], lines: list[tuple[str, list[str]]], notes: list[str]) -> str:
    rows = [("", titles), *lines]
    if len(titles) > MANY:
        rows = _turned(rows)
    first_width = max(len(name) for name, _ in rows)
    widths = [max(len(values[i]) for _, values in rows) for i in range(len(rows[0][1]))]
    text = [
        "  ".join(
            [name.ljust(first_width), *(v.rjust(w) for v, w in zip(values, widths, strict=True))]
        )
        for name, values in rows
    ]
    return "\n".join([*text, *(f"note: {note}" for note in notes)]) + "\n"


def _turned(rows: list[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    """Return the table with rows and columns exchanged."""
    columns = zip(*([name, *values] for name, values in rows), strict=True)
    return [(first, list(others)) for first, *others in columns]


def _number(value: str) -> float | None:
    """Return the number that a cell shows; NaN for none, None for text."""
    if value == MISSING:
        return math.nan
    try:
        return float(value.removesuffix(" %").replace(",", ""))
    except ValueError:
        return None


def _sortable(titles: list[str], lines: list[tuple[str, list[str]]]) -> str:
    """Return the table of many runs, with a row for each."""
    (_, head), *runs = _turned([("", titles), *lines])
    numeric = [all(_number(value) is not None for value in column) for _, column in lines]

    def cell(value: str, is_number: bool) -> Cell:
        return esc(value), _number(value) if is_number else None

    rows = [[(esc(title), None), *map(cell, values, numeric)] for title, values in runs]
    return sorted_table("Runs compared", ["run", *head], rows, sortable=True)


def _html(titles: list[str], lines: list[tuple[str, list[str]]]) -> str:
    if len(titles) > MANY:
        return _sortable(titles, lines)
    head = "".join(f'<th scope="col" class="number">{esc(name)}</th>' for name in titles)
    rows = "\n".join(
        f'<tr><th scope="row">{esc(name)}</th>'
        + "".join(f'<td class="number wraps">{esc(value)}</td>' for value in values)
        + "</tr>"
        for name, values in lines
    )
    return scrolled(
        "Runs compared",
        f"<table><thead><tr><td></td>{head}</tr></thead>\n<tbody>{rows}</tbody></table>",
    )
