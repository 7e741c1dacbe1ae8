"""Keeps what `make bench` measured, and writes the README's table from it.

python -m benchmarks.table RAW.json NAME   raw pytest-benchmark output -> results/NAME.json
python -m benchmarks.table                 results/*.json -> the table in README.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- table: python -m benchmarks.table -->", "<!-- end of the table -->"


def keep(raw: dict[str, Any]) -> dict[str, Any]:
    """The rows of a raw result: a provider of a group, its median, spread and rate."""
    rows = []
    for bench in raw["benchmarks"]:
        stats, extra = bench["stats"], bench["extra_info"]
        shared = {key: value for key, value in extra.items() if key != "providers"}
        if "providers" in extra:
            rows += [
                {"group": bench["group"], "provider": name, **found, **shared}
                for name, found in extra["providers"].items()
            ]
        else:
            name = (bench["params"] or {}).get("provider", bench["name"].removeprefix("test_"))
            spread = {"n": stats["rounds"], "median_seconds": stats["median"], "iqr": stats["iqr"]}
            rows.append({"group": bench["group"], "provider": name, **spread, **shared})
    return {"command": "make bench", "environment": raw["environment"], "rows": rows}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one table a machine, its hardware and versions above it."""
    parts = []
    for result in results:
        lines = [
            f"`{result['command']}`: {machine(result['environment'])}",
            "",
            "| what | provider | n | images/s (median) | times the source loop |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [_line(row) for row in result["rows"] if "images_per_second" in row]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def machine(found: dict[str, Any]) -> str:
    """A line on the hardware, the versions, the commit and the day of a result."""
    cpu, gpu = found["cpu"], found["gpu"]
    chip = (
        gpu["name"] if gpu else f"{cpu['name']}, {cpu['physical_cores']} cores, {cpu['capability']}"
    )
    bf16 = "" if gpu else f" {'with' if cpu['bf16'] else 'without'} bf16"
    commit = (found["fasttrain"]["commit"] or "unknown")[:7]
    return f"{chip}{bf16}; torch {found['torch']}, commit {commit}, {found['date'][:10]}"


def _line(row: dict[str, Any]) -> str:
    ratio = f"{row['times_source']:.2f}" if "times_source" in row else ""
    return (
        f"| {row['group']} | {row['provider']} | {row['n']} | "
        f"{row['images_per_second']:,.0f} | {ratio} |"
    )


def results() -> list[dict[str, Any]]:
    """Every kept result of `make bench`, by name."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("bench-*.json"))]


def main(arguments: list[str]) -> None:
    if arguments:
        kept = keep(json.loads(Path(arguments[0]).read_text()))
        path = RESULTS / f"bench-{arguments[1]}.json"
        path.write_text(json.dumps(kept, indent=1) + "\n")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    readme.write_text(f"{before}{BEGIN}\n{table(results())}\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
