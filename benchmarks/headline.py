"""Makes the README's table of the most important results.

python -m benchmarks.headline   results/*.json -> the table in README.md and docs/
"""

from __future__ import annotations

import json
from statistics import mean
from typing import Any

from benchmarks.table import RESULTS, put, results, value
from fasttrain.recipe.named import RECIPES

BEGIN = "<!-- table: python -m benchmarks.headline -->"
END = "<!-- end of the headline -->"
STEP, LOADERS = "training step, batch 128", "loaders, an epoch, batch 128"
SAVE = "save of ResNet18"
Row = tuple[str, str, str]


def table() -> str:
    """Markdown: what was measured, the number with its n, and the hardware."""
    gpus, soak = results("gpu"), json.loads((RESULTS / "soak.json").read_text())
    bench = [*results(), *gpus]
    rows = [*missions(gpus), *sprints(results("sprint")), step(bench), loaders(bench), save(bench)]
    rows += faults(soak)
    if not any(result["environment"]["gpu"] for result in bench):
        rows.append(("anything on a GPU", "*not measured*: `make gpu` does it there", ""))
    lines = ["| what | measured | on |", "| --- | --- | --- |"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def missions(gpus: list[dict[str, Any]]) -> list[Row]:
    """The 50 epochs on CIFAR-10: the fastest of those that reached their end."""
    found = [
        (result["stages"]["mission"]["summary"], result)
        for result in gpus
        if result["stages"].get("mission", {}).get("images") == "cifar10"
        and result["stages"]["mission"].get("summary", {}).get("epochs") == 50
    ]
    if not found:
        return []
    summary, result = min(found, key=lambda each: each[0]["total_seconds"])
    measured = f"{summary['total_seconds']:.0f} s in one go, with evaluation, checkpoints and "
    measured += f"report, {100 * summary['final_test_accuracy']:.2f} % (n = 1)"
    return [("`--epochs 50`: ResNet18 on CIFAR-10", measured, where(result))]


def sprints(series: list[dict[str, Any]]) -> list[Row]:
    """One row per target: the fastest series, with today's biases, of which two thirds reached it.

    Biases that hardly moved made earlier series slower; docs/sprint.md still has those.
    """
    rows, rate = [], RECIPES["sprint"]["bias_rate"]
    today = [each for each in series if each["recipe"].get("bias_rate") == rate]
    for target in sorted({each["target"] for each in today}):
        there = [e for e in today if e["target"] == target and 3 * e["reached"] >= 2 * e["count"]]
        if there:
            best = min(there, key=lambda each: each["seconds_mean"])
            accuracy = mean(run["best_test_accuracy"] for run in best["runs"])
            seconds = f"{best['seconds_mean']:,.0f} s"
            seeds = f"means of {best['count']} seeds"
            if best["reached"] < best["count"]:
                seeds = f"{best['reached']} of {best['count']} seeds reached it"
            measured = f"{seconds}, {100 * accuracy:.2f} % ({seeds})"
            what = f"`--recipe sprint` to {100 * target:.4g} % of CIFAR-10's test images"
            rows.append((what, measured, where(best)))
    return rows


def step(bench: list[dict[str, Any]]) -> Row:
    """The fastest step of ResNet18, compared with the plain loop."""
    result, row = _best(bench, STEP, "times_source")
    measured = f"{value(row)}, {row['times_source']:.2f} times the plain loop (n = {row['n']})"
    return ("a training step of ResNet18, batch 128", measured, where(result))


def loaders(bench: list[dict[str, Any]]) -> Row:
    """The rate of DALI, compared with a DataLoader of albumentations."""
    result, row = _best(bench, LOADERS, "times_albumentations", provider="dali")
    ratio = f"{row['times_albumentations']:.1f} times albumentations"
    measured = f"{value(row)}, {ratio} (n = {row['n']})"
    return ("the DALI loader, an epoch in batches of 128", measured, where(result))


def save(bench: list[dict[str, Any]]) -> Row:
    """How long training waits for a checkpoint, and how long a thread then writes it."""
    result, loop = _best(bench, SAVE, "bytes", provider="loop")
    _, thread = _best([result], SAVE, "bytes", provider="save")
    size = f"{loop['bytes'] / 1e6:.0f} MB"
    measured = (
        f"training waits {value(loop)}; a thread writes for {value(thread)} (n = {loop['n']})"
    )
    return (f"a checkpoint of {size}", measured, where(result))


def faults(soak: dict[str, Any]) -> list[Row]:
    """The faults that runs survived in the soak."""
    passed = soak["passed"]
    runs = passed["runs that were killed and ended bitwise equal"]
    return [
        (
            "`kill -9` at random instants, then `--resume`",
            f"{passed['kills']} kills, {runs} runs: each ends bitwise as an uninterrupted run",
            where(soak),
        ),
        (
            "flipped bits and truncations in a checkpoint",
            f"{passed['flipped bits and truncations']:,}: all are detected, none is loaded",
            where(soak),
        ),
    ]


def where(result: dict[str, Any]) -> str:
    """The chip of a result, in a few words."""
    cpu, gpu = result["environment"]["cpu"], result["environment"]["gpu"]
    name = cpu["name"].replace("(R)", "").removesuffix(" Processor")
    bf16 = " with bf16" if cpu["bf16"] else ""
    return gpu["name"] if gpu else f"{cpu['physical_cores']} cores of {name}{bf16}"


def _best(
    bench: list[dict[str, Any]], group: str, key: str, *, provider: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The result and its row with the largest `key` in a group; a GPU's result comes first."""
    found = [
        (result["environment"]["gpu"] is not None, row[key], number, result, row)
        for number, result in enumerate(bench)
        for row in result["rows"]
        if row["group"].startswith(group) and key in row and provider in (None, row["provider"])
    ]
    *_, result, row = max(found, key=lambda each: each[:3])
    return result, row


def main() -> None:
    put(table(), begin=BEGIN, end=END)


if __name__ == "__main__":
    main()
