"""report.html: one page about one run, in one file that needs no network.

It is built from the run directory alone, so it can be rebuilt at any time, also during training.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import OutputError
from . import class_table, headline, pictures, sections
from .charts import Spec, curves, drawable, range_test
from .files import check_form, write_whole
from .page import document, esc
from .read import Run, read
from .words import fact, percent

NAMES = {
    "curves": "Curves",
    "rate": "Range test",
    "mistakes": "Mistakes",
    "labels": "Label errors",
    "classes": "Classes",
    "samples": "Samples",
    "time": "Time",
    "details": "Details",
}
OURS = re.compile(r"Drawn by fasttrain")


def write(run_dir: Path) -> Path:
    """Write `run_dir`/report.html and return its path.

    Raises the errors of read(), and OutputError if it cannot be written.
    """
    drawn = page(read(run_dir))
    check_targets(run_dir)
    return write_whole(run_dir / "report.html", drawn)


def check_targets(run_dir: Path) -> None:
    """Raise OutputError if the page or a figure would replace a file that is not the run's."""
    check_form(run_dir / "report.html", OURS, run=True)
    if (run_dir / "figures").is_symlink():
        why = "is a link, and a report writes only inside its run"
        raise OutputError(f"{run_dir / 'figures'} {why}. Move it away.")


def page(run: Run) -> str:
    """Return the whole page as HTML."""
    charts = _charts(run)
    parts = {
        "curves": sections.curves(run, charts),
        "rate": sections.range_test(run, charts),
        "mistakes": pictures.mistakes(run),
        "labels": pictures.label_errors(run),
        "classes": class_table.classes(run),
        "samples": pictures.samples(run),
        "time": sections.ledger(run),
        "details": sections.details(run),
    }
    there = {name: content for name, content in parts.items() if content}
    links = "".join(f'<li><a href="#{name}">{esc(NAMES[name])}</a></li>' for name in there)
    content = "\n".join(there.values())
    body = f"""{headline.headline(run)}
<main>
<nav aria-label="Sections"><ul>{links}</ul></nav>
{content}
</main>
<footer><p>Drawn by fasttrain from {esc(run.path.name)}.</p></footer>"""
    return document(_title(run), body, charts)


def _charts(run: Run) -> dict[str, Spec]:
    found = curves(run)
    if run.sweep is not None:
        found["range"] = range_test(run, run.sweep)
    return drawable(found)


def _title(run: Run) -> str:
    best = run.best
    once = fact(run.summary, "test_accuracy")
    accuracy = once if once == once else best.test_accuracy if best else once
    return f"{percent(accuracy)} · {run.name}" if best else run.name
