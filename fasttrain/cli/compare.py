"""The command `compare`: several runs, or all that are in a folder, in a table and on a page.

In a folder of experiments there may be a run that never trained or is damaged. It is named and left
out; one that is named on the command line is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import FasttrainError
from ..report import compare as compared
from ..report.read import Run, read
from ..run.status import runs_in


def compare(
    paths: Sequence[Path], out: Path, *, sort: str | None, log: Callable[[str], None]
) -> None:
    """Print how the runs differ and draw them over each other on the page `out`.

    Raises the errors of report.compare.
    """
    compared.check_out(out)
    found: dict[Path, Run] = {}
    left_out: list[str] = []
    for path in paths:
        inside = runs_in(path) if path.is_dir() else []
        alone = inside in ([], [path])
        for run in [path] if alone else inside:
            try:
                made = read(run)
                if not alone and not made.rows:
                    left_out.append(f"{run}: no epoch has ended")
                else:
                    found.setdefault(run.resolve(), made)
            except FasttrainError as error:
                if alone:
                    raise
                left_out.append(str(error))
    runs = list(found.values())
    log(compared.compare(runs, sort=sort))
    for why in left_out:
        log(f"left out: {why}")
    log(f"page: {compared.write_page(runs, out, sort=sort)}")
