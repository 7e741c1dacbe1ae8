"""Words for the results of the stages: a line each, and the table of the training steps.

What is not there is said to be not measured, with the reason that the stage left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import mean
from typing import Any

from benchmarks.gpu.plan import STAGES

WAYS = ("source", "AMP loop", "eager", "graph", "compiled", "both")
NOT = "*not measured*"
Found = dict[str, Any]


def lines(result: Found) -> Iterator[tuple[str, str]]:
    """What each stage measured, and how it ended if not well."""
    for stage in STAGES:
        found = result["stages"].get(stage.name)
        if found is None:
            yield stage.what, NOT
            continue
        rows = found.get("rows") or [
            row for row in result["rows"] if row["group"].startswith(GROUPS.get(stage.name, "-"))
        ]
        said = "; ".join(SAYS[stage.name](found, rows)) if rows else ""
        why = "" if found["state"] == "done" else f"{found['state']}: {found['why']}"
        yield stage.what, _cell("; ".join(filter(None, [said, why])) or NOT)


def steps(rows: list[Found]) -> str:
    """A table of the steps: a row for each batch and precision, a column for each way."""
    cells = {(row["batch"], row["amp"], row["way"]): row for row in rows if "way" in row}
    if not cells:
        return ""
    kinds = sorted({key[:2] for key in cells}, key=lambda kind: (kind[1], kind[0]))
    head = f"| batch | precision | {' | '.join(WAYS)} |"
    made = ["Images/s of a training step (ms; share of the bf16 matrix product's rate):", ""]
    made += [head, f"| --- | --- |{' --- |' * len(WAYS)}"]
    for batch, amp in kinds:
        shown = [_step(cells.get((batch, amp, way))) for way in WAYS]
        made.append(f"| {batch:,} | {amp} | {' | '.join(shown)} |")
    others = [row for key, row in cells.items() if key[2] not in WAYS]
    made += ["", *(f"- batch {row['batch']:,}, {row['provider']}: {_step(row)}" for row in others)]
    return "\n".join(made).rstrip()


def _step(row: Found | None) -> str:
    if row is None:
        return ""
    share, milliseconds = row["share_of_product"], 1000 * row["median_seconds"]
    return f"{row['images_per_second']:,.0f} ({milliseconds:.2f}; {share:.0%})"


def _machine(found: Found, rows: list[Found]) -> Iterator[str]:
    products = [row for row in rows if "flops" in row]
    if products:
        each = ", ".join(f"{row['provider']} {row['flops'] / 1e12:,.1f}" for row in products)
        yield f"matrix products in TFLOP/s: {each}"
    for row in rows:
        if "gigabytes_per_second" in row:
            yield f"a copy on the device {row['gigabytes_per_second']:,.0f} GB/s"


def _tests(found: Found, rows: list[Found]) -> Iterator[str]:
    yield ", ".join(f"{count} {how}" for how, count in sorted(found["counts"].items()))


def _rates(found: Found, rows: list[Found]) -> Iterator[str]:
    each = (f"{row['provider']} {row['images_per_second']:,.0f}" for row in rows)
    yield f"images/s: {', '.join(each)} (n = {min(row['n'] for row in rows)})"


def _steps(found: Found, rows: list[Found]) -> Iterator[str]:
    measured = [row for row in rows if "way" in row and row["way"] in WAYS[2:]]
    if measured:
        best = max(measured, key=lambda row: row["images_per_second"])
        yield (
            f"the fastest: {_step(best)} images/s (ms; of the product) by batch "
            f"{best['batch']:,}, {best['provider']} (n = {best['n']})"
        )


def _mission(found: Found, rows: list[Found]) -> Iterator[str]:
    (row,) = rows
    yield f"{row['n']} epochs, {row['final_test_accuracy']:.2%} at the end (n = 1)"
    yield f"an epoch {row['epoch_seconds']:.2f} s, {row['images_per_second']:,.0f} images/s"
    summary = found.get("summary") or {}
    if "total_seconds" in summary:
        parts = summary["ledger"].items()
        most = sorted(parts, key=lambda part: -part[1])[:5]
        said = ", ".join(f"{name.replace('_', ' ')} {seconds:.1f}" for name, seconds in most)
        yield f"in all {summary['total_seconds']:.1f} s ({said})"
    yield from found.get("choices") or []
    if found.get("images") == "synthetic":
        yield "on synthetic images: the accuracy says nothing"


def _sprint(found: Found, rows: list[Found]) -> Iterator[str]:
    ours = [row for row in rows if row["provider"] == "fasttrain"]
    reached = [row["seconds_to_target"] for row in ours if "seconds_to_target" in row]
    took = f" in {mean(reached):.2f} s (mean)" if reached else ""
    flips = mean(row["final_test_accuracy_with_flips"] for row in ours)
    yield f"{len(reached)} of {len(ours)} seeds reached 94 %{took}, with flips {flips:.2%}"
    peer = [row for row in rows if row["provider"] == "airbench"]
    if peer:
        plain, whole = (
            mean(row[name] for row in peer) for name in ("test_accuracy", "test_accuracy_with_all")
        )
        seconds = mean(row["train_seconds"] for row in peer)
        yield f"airbench {seconds:.2f} s, {plain:.2%}, augmented {whole:.2%} (n = {len(peer)})"


def _trace(found: Found, rows: list[Found]) -> Iterator[str]:
    for row in rows:
        found = row["profile"]
        step = f"a step of {1000 * found['step_seconds']:.2f} ms, device busy {found['busy']:.0%}"
        yield f"{row['provider']}: {step}, data wait {found['data_wait']:.1%} ({row['file']})"


def _cell(text: str) -> str:
    """Text that stays within a cell of a table."""
    return " ".join(text.replace("|", "/").split())


SAYS: dict[str, Callable[[Found, list[Found]], Iterator[str]]] = {
    "machine": _machine,
    "tests": _tests,
    "loaders": _rates,
    "steps": _steps,
    "mission": _mission,
    "sprint": _sprint,
    "peers": _rates,
    "trace": _trace,
}
GROUPS = {"loaders": "loaders", "steps": "training step", "peers": "epoch of"}
