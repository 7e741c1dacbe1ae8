"""Series of runs in which one thing at a time is changed, for `switches` and `modern`.

A folder has one series for each change, by its name, as `--runs` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.table import put, results, store
from fasttrain.run import finish

Result = dict[str, Any]


def without_reports() -> AbstractContextManager[Any]:
    """For the block, runs write no report: seconds each, where accuracies are all that is asked."""
    nothing = {"draw_end": _nothing, "explain_run": _nothing}
    return mock.patch.multiple(finish, **nothing)


def gather(
    out: Path, names: Iterable[str], *, first: str, row: Callable[[list[Result]], Any]
) -> Result:
    """The `row` of each finished series, made of its runs; command and environment of `first`."""
    paths = {name: out / name / "series.json" for name in names}
    made = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    found = {name: series for name, series in made.items() if "count" in series}  # all their runs
    about = {key: found[first][key] for key in ("command", "environment")}
    return {**about, "rows": {name: row(series["runs"]) for name, series in found.items()}}


def command(
    arguments: list[str],
    *,
    kind: str,
    run: Callable[[Path, list[str]], None],
    gather: Callable[[Path], Result],
    table: Callable[[list[Result]], str],
    begin: str,
    end: str,
) -> None:
    """`OUT [NAME ...]` trains, `keep OUT NAME` keeps; that and no argument write the table."""
    if arguments and arguments[0] != "keep":
        run(Path(arguments[0]), arguments[1:])
        return
    if arguments:
        _, out, name = arguments
        store(gather(Path(out)), kind, name)
    put(table(results(kind)), begin=begin, end=end)


def _nothing(*args: object, **options: object) -> None:
    """Replace the report of a run."""
