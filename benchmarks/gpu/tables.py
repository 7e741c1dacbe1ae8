"""Keeps the results of a measurement, and writes them as Markdown: a report, and the documents.

Results come home from a borrowed GPU as a folder; what is kept of it fits into the repository.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks import headline, sprints, table
from benchmarks.gpu.plan import STAGES, result_path
from benchmarks.gpu.words import lines, steps
from fasttrain.storage import atomic

BEGIN, END = "<!-- table: python -m benchmarks.gpu table -->", "<!-- end of the gpu table -->"
NONE = "*Not measured* yet; `make gpu` does it."
ROWS = ("loaders", "steps", "peers")  # stages whose rows are those of `make bench`
LEFT_OUT = ("traceback", "failures", "environment", "rehearsal")
PLACE = re.compile(r"(?<![\w.])(?:/[\w.+@~-]+){2,}")  # an absolute path


def read(out: Path) -> dict[str, dict[str, Any]]:
    """The results of the stages that left one in a folder, by name; FileNotFoundError if none."""
    paths = {stage.name: result_path(out, stage.name) for stage in STAGES}
    found = {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name, path in paths.items()
        if path.exists()
    }
    if not found:
        raise FileNotFoundError(f"{out}: no stage has left a result here")
    return found


def gathered(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What is kept of a measurement: its environment, its rows, and each stage's own numbers."""
    known = [each["environment"] for each in found.values() if "environment" in each]
    rows = [row for name in ROWS for row in found.get(name, {}).get("rows", [])]
    stages = {
        name: {key: value for key, value in stage.items() if key not in LEFT_OUT}
        for name, stage in found.items()
    }
    for name in ROWS:
        stages.get(name, {}).pop("rows", None)
    environment = known[0] if known else None
    found = {"command": "make gpu", "environment": environment, "rows": rows, "stages": stages}
    return _without_places(found)


def _without_places(value: Any) -> Any:
    """The same without absolute paths, which are a machine's and no result."""
    if isinstance(value, str):
        return PLACE.sub("PATH", value)
    if isinstance(value, dict):
        return {key: _without_places(each) for key, each in value.items()}
    return [_without_places(each) for each in value] if isinstance(value, list) else value


def report(out: Path) -> Path:
    """Write report.md beside the results of a folder; return its path."""
    found = read(out)
    rehearsed = any(stage.get("rehearsal") for stage in found.values())
    warning = "A rehearsal on a CPU: none of these numbers means anything.\n\n" if rehearsed else ""
    text = f"# Measured by make gpu\n\n{warning}{markdown([gathered(found)])}\n"
    atomic.write_atomically(out / "report.md", text.encode())
    return out / "report.md"


def markdown(results: list[dict[str, Any]]) -> str:
    """For each result its machine, a line for each stage, and the table of steps."""
    parts = []
    for result in results:
        environment = result["environment"]
        where = table.machine(environment) if environment else "a machine that is not known"
        parts.append(f"`{result['command']}`: {where}")
        head = ["| stage | measured |", "| --- | --- |"]
        parts.append("\n".join([*head, *(f"| {what} | {said} |" for what, said in lines(result))]))
        made = steps(result["rows"])
        parts += [made] if made else []
    return "\n\n".join(parts) or NONE


def keep(out: Path, name: str) -> None:
    """Store the results of a folder and write the tables; ValueError for those of a rehearsal."""
    found = read(out)
    if any(stage.get("rehearsal") for stage in found.values()):
        raise ValueError(f"{out}: a rehearsal measures nothing. Keep the results of a GPU.")
    made = gathered(found)
    if made["environment"] is None:
        raise ValueError(f"{out}: no stage lived long enough to say what the machine is.")
    series = made["stages"].get("sprint", {}).pop("series", None)
    table.store(made, "gpu", name)
    if series and "count" in series:
        table.store(series, "sprint", f"{name}-94")
    write()


def write() -> None:
    """Write the tables of the documents from the kept results."""
    table.put(markdown(table.results("gpu")), begin=BEGIN, end=END)
    table.main([])
    sprints.main([])
    headline.main()
