"""Mean and standard deviation of the results of several runs, and their description.

A series may have a single run, or runs that did not reach the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

# A run has one of these: of the test images that chose nothing, or of the split that chose.
ACCURACIES = {
    "test_accuracy": "test accuracy of the best epoch",
    "final_test_accuracy": "final test accuracy",
    "final_val_accuracy": "final val accuracy",
}


def sum_up(rows: Sequence[dict[str, Any]], *, target: float | None) -> dict[str, Any]:
    """Return mean and standard deviation of the runs' accuracy, and of the time to `target`.

    `accuracy` names the accuracy. The time is over the runs that reached the target; `reached` is
    their number.
    """
    name = next(name for name in ACCURACIES if name in rows[0])
    found: dict[str, Any] = {
        "count": len(rows),
        "target": target,
        "accuracy": name,
        **_spread("accuracy", [row[name] for row in rows]),
    }
    if target is not None:
        times = [row["seconds_to_target"] for row in rows if "seconds_to_target" in row]
        found |= {"reached": len(times), **_spread("seconds", times)}
    return found


def describe(found: dict[str, Any]) -> str:
    """Describe a series in one line."""
    line = (
        f"{found['count']} runs: {ACCURACIES[found['accuracy']]} {found['accuracy_mean']:.2%} "
        f"(standard deviation {found['accuracy_deviation']:.2%})"
    )
    if found["target"] is None:
        return line
    line += f"; {found['reached']} of {found['count']} reached {found['target']:.2%}"
    mean_seconds, spread = found["seconds_mean"], found["seconds_deviation"]
    return line + (f", in {mean_seconds:.1f} s ({spread:.1f})" if found["reached"] else "")


def _spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    deviation = stdev(values) if len(values) > 1 else 0.0
    return {
        f"{name}_mean": mean(values) if values else None,
        f"{name}_deviation": deviation if values else None,
    }
