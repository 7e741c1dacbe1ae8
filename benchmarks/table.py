"""Stores the results of `make bench`, and writes their table into the documents.

python -m benchmarks.table RAW.json NAME   raw pytest-benchmark output -> results/NAME.json
python -m benchmarks.table                 results/*.json -> the tables in README.md and docs/

In a document a table lies between two comments, and is never edited by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- table: python -m benchmarks.table -->", "<!-- end of the table -->"
HEAD = "| what | provider | n | median | times the rate of | first step |"
RULE = "| --- | --- | --- | --- | --- | --- |"
ON_A_GPU = (
    ("augment, 1,024 images to float32 and float16", "ours, torch, compile"),
    ("epoch of 100 steps, batch 128", "source, AMP loop, fasttrain, fasttrain with graphs"),
    ("loaders, an epoch, batch 128", "dali, resident, kernel, albumentations"),
    ("loaders by side, an epoch, batch 128", "dali, resident, kernel, each at sides 32 and 64"),
    ("loaders, to the first batch", "dali, resident, kernel"),
    ("range test of 100 steps, plain and in a graph", "find_lr, bare steps"),
    ("SGD, 11,173,962 parameters", "ours, torch, compile"),
    (
        "training step, batch 128, 256, 512, 1024",
        "source, AMP loop, channels_last and fused SGD, with AMP, with graphs, compiled, with both",
    ),
)


def keep(raw: dict[str, Any]) -> dict[str, Any]:
    """Convert a raw result to rows: group, provider, median, spread and rate."""
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


def table(results: list[dict[str, Any]], elsewhere: Sequence[dict[str, Any]] = ()) -> str:
    """Markdown: a table per machine, under its hardware and versions, and rows not measured yet.

    The results `elsewhere` have tables of their own; what they measured is not missing here.
    """
    parts = []
    for result in results:
        lines = [f"`{result['command']}`: {machine(result['environment'])}", "", HEAD, RULE]
        lines += [_line(row) for row in result["rows"]]
        parts.append("\n".join(lines))
    on_gpus = [result for result in (*results, *elsewhere) if result["environment"]["gpu"]]
    groups = {row["group"] for result in on_gpus for row in result["rows"]}
    rest = [row for row in ON_A_GPU if not any(group.startswith(_begin(row)) for group in groups)]
    if rest:
        lines = ["On a GPU; `make bench NAME=mygpu` there fills these rows:", "", HEAD, RULE]
        parts.append("\n".join(lines + [_unmeasured(*row) for row in rest]))
    return "\n\n".join(parts)


def machine(found: dict[str, Any]) -> str:
    """The hardware, versions, commit and date of a result, in one line."""
    cpu, gpu = found["cpu"], found["gpu"]
    used, cores = cpu.get("torch_threads"), f"{cpu['physical_cores']} cores"
    if used and used < cpu["physical_cores"]:
        cores = f"{used} of {cores}"
    chip = gpu["name"] if gpu else f"{cpu['name']}, {cores}, {cpu['capability']}"
    bf16 = "" if gpu else f" {'with' if cpu['bf16'] else 'without'} bf16"
    commit = (found["fasttrain"]["commit"] or "unknown")[:7]
    commit += " with changes" if found["fasttrain"]["modified"] else ""
    return f"{chip}{bf16}; torch {found['torch']}, commit {commit}, {found['date'][:10]}"


def _line(row: dict[str, Any]) -> str:
    ratios = [
        f"{value:.2f} {name.removeprefix('times_')}"
        for name, value in row.items()
        if name.startswith("times_")
    ]
    first = f"{row['first_step_seconds']:.1f} s" if "first_step_seconds" in row else ""
    cells = (row["group"], row["provider"], row["n"], value(row), ", ".join(ratios), first)
    return "".join(f"| {cell} " for cell in cells) + "|"


def value(row: dict[str, Any]) -> str:
    """The median of a row as images/s or GB/s if it has them, else as a time."""
    if "images_per_second" in row:
        rate = f"{row['images_per_second']:,.0f} images/s"
        moved = row.get("gigabytes_per_second")
        return f"{rate}, {moved:.2f} GB/s" if moved else rate
    if "gigabytes_per_second" in row:
        return f"{row['gigabytes_per_second']:.2f} GB/s"
    seconds = row["median_seconds"]
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def _begin(row: tuple[str, str]) -> str:
    """What the names of the groups in a row of ON_A_GPU begin with: they go on with a number."""
    return re.split(r"\d", row[0])[0]


def _unmeasured(group: str, providers: str) -> str:
    return f"| {group}, cuda | {providers} | | *not measured* | | |"


def results(kind: str = "bench") -> list[dict[str, Any]]:
    """All stored results of a kind, sorted by name."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{kind}-*.json"))]


def store(found: dict[str, Any], kind: str, name: str) -> None:
    """Store a result as results/KIND-NAME.json."""
    (RESULTS / f"{kind}-{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def documents() -> list[Path]:
    """The documents that may contain a table: README.md and the pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shown(*, begin: str, end: str) -> dict[Path, str]:
    """The text between the lines `begin` and `end`, for each document that has them."""
    return {
        path: _parts(path, begin, end)[1].strip() for path in documents() if begin in _text(path)
    }


def put(made: str, *, begin: str, end: str) -> None:
    """Write `made` between the lines `begin` and `end`, in each document that has them."""
    for path in shown(begin=begin, end=end):
        before, _, after = _parts(path, begin, end)
        path.write_text(f"{before}{begin}\n{made}\n{end}{after}", encoding="utf-8")


def _parts(path: Path, begin: str, end: str) -> tuple[str, str, str]:
    before, _, rest = _text(path).partition(begin)
    inside, closed, after = rest.partition(end)
    if not closed:
        raise ValueError(f"{path}: {begin} has no {end}")
    return before, inside, after


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def main(arguments: list[str]) -> None:
    if arguments:
        store(keep(json.loads(Path(arguments[0]).read_text())), "bench", arguments[1])
    put(table(results(), results("gpu")), begin=BEGIN, end=END)


if __name__ == "__main__":
    main(sys.argv[1:])
