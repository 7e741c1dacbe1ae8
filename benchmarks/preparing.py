"""Writes the table of how fast a folder is prepared into the documents.

python -m benchmarks.preparing   results/prepare-*.json (of bench_prepare --name) -> docs/
"""

from __future__ import annotations

from typing import Any

from benchmarks.table import machine, put, results

BEGIN, END = "<!-- table: python -m benchmarks.preparing -->", "<!-- end of preparing -->"


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: for each machine the providers, by median, and the most memory that ours took."""
    if not results:
        return "*Not measured* yet; `python -m benchmarks.bench_prepare --name mybox` does it."
    parts = []
    for result in results:
        cores, bar = result["cores"], result["bar"]
        lines = [
            f"{result['group'].capitalize()}, {machine(result['environment'])}; load when it ended "
            f"{result['load']:.1f}:",
            "",
            f"| provider | n | images/s | of {cores} cores x one thread |",
            "| --- | --- | --- | --- |",
        ]
        lines += [
            f"| {row['provider']} | {row['n']} | {row['images_per_second']:,.0f} | "
            f"{row['of_cores_times_one_thread']:.2f} |"
            for row in result["rows"]
        ]
        memory = "; ".join(
            f"{size / 2**20:,.0f} MiB, {what}"
            for what, size in result["peak_bytes"].items()
            if size
        )
        lines += ["", f"Peak memory of ours, all its processes: {memory or '*not measured*'}."]
        lines += [f"Wanted of ours: {bar}. By `{result['command']}`."]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    put(table(results("prepare")), begin=BEGIN, end=END)


if __name__ == "__main__":
    main()
