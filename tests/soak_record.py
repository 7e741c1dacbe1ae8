"""A pytest plugin of `make soak` that writes its results to benchmarks/results/soak.json.

A test reports its count with pytest's `record_property("kills", 200)`. A part of the soak, such as
`python -m pytest -m soak -k kills`, does not load this plugin and changes no file.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from time import perf_counter
from typing import Any

from fasttrain.machine import environment

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "soak.json"

counts: Counter[str] = Counter()
failed: list[str] = []
began = perf_counter()


def pytest_runtest_logreport(report: Any) -> None:
    if report.failed:
        failed.append(report.nodeid)
    if report.when == "call" and report.passed:
        counts.update(dict(report.user_properties))


def pytest_sessionfinish(session: Any) -> None:
    command = " ".join(["python -m pytest", *session.config.invocation_params.args])
    RESULT.write_text(json.dumps(record(command), indent=1) + "\n", encoding="utf-8")


def record(command: str) -> dict[str, Any]:
    """Return command, machine, counts of passed tests and names of failed ones."""
    return {
        "command": command,
        "environment": environment.describe(),
        "seconds": round(perf_counter() - began),
        "passed": dict(sorted(counts.items())),
        "failed": failed,
    }
