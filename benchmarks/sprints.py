"""Stores the results of sprint series, and writes their table into the documents.

python -m benchmarks.sprints SERIES.json NAME   what --runs wrote -> results/sprint-NAME.json
python -m benchmarks.sprints                    results/sprint-*.json -> the table in docs/
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.table import machine, put, results, store

BEGIN, END = "<!-- table: python -m benchmarks.sprints -->", "<!-- end of the sprints -->"


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row per series, grouped by hardware."""
    parts = []
    for where in dict.fromkeys(machine(result["environment"]) for result in results):
        lines = [
            f"{where}:",
            "",
            "| target | channels, epochs | reached | seconds, mean (each) | test accuracy, each | "
            "with flips, mean | seconds times float32 rate |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        here = [each for each in results if machine(each["environment"]) == where]
        lines += [_line(result) for result in sorted(here, key=lambda each: each["target"])]
        commands = "; ".join(f"`{result['command']}`" for result in here)
        parts.append("\n".join([*lines, "", f"By {commands}."]))
    return "\n\n".join(parts)


def _line(found: dict[str, Any]) -> str:
    runs = found["runs"]
    there = [run for run in runs if "seconds_to_target" in run]
    seconds = [run["seconds_to_target"] for run in there]
    work = [run["fp32_operations_to_target"] / 1e12 for run in there]
    each = ", ".join(f"{second:.0f}" for second in seconds)
    accuracies = ", ".join(f"{run['best_test_accuracy']:.2%}" for run in runs)
    flips = mean(run["final_test_accuracy_with_flips"] for run in runs)
    took = f"{mean(seconds):.0f} ({each}) | {accuracies}" if there else f"| {accuracies}"
    recipe = found["recipe"]
    network = f"{recipe['widths'].replace(',', '-')}, {recipe['epochs']}"
    return (
        f"| {found['target']:.2%} | {network} | {len(there)} of {len(runs)} | {took} | "
        f"{flips:.2%} | {f'{mean(work):.0f} TFLOP' if there else ''} |"
    )


def main(arguments: list[str]) -> None:
    if arguments:
        store(json.loads(Path(arguments[0]).read_text()), "sprint", arguments[1])
    put(table(results("sprint")), begin=BEGIN, end=END)


if __name__ == "__main__":
    main(sys.argv[1:])
