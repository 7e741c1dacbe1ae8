"""Numbers and facts of a run as text, the same in figures, page and table.

A missing value is shown as a dash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ..errors import shown
from .read import Run
from .records import Sweep

MISSING = "–"
SOURCE_ACCURACY = 0.9253  # the source experiment's test accuracy after its last epoch
TITLES = {"cifar10": "CIFAR-10", "synthetic": "synthetic data", "resnet18": "ResNet18"}
TITLES |= {"sprint": "Sprint", "cifar100": "CIFAR-100", "mnist": "MNIST"}


def percent(fraction: float, digits: int = 2) -> str:
    return f"{100 * fraction:.{digits}f} %" if math.isfinite(fraction) else MISSING


def metric(name: object) -> str:
    """Name what the best epoch was chosen by: macro_f1 is macro F1."""
    return str(name or "accuracy").replace("_f1", "_F1").replace("_", " ")


def points(difference: float) -> str:
    """Format a difference of two fractions in percentage points, without its sign."""
    return f"{100 * abs(difference):.2f} points"


def rate(value: float) -> str:
    """Format a learning rate with three significant digits."""
    return f"{value:.3g}" if math.isfinite(value) else MISSING


def nats(loss: float) -> str:
    return f"{loss:.4f}" if math.isfinite(loss) else MISSING


def whole(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else MISSING


def tenths(seconds: float) -> str:
    return f"{seconds:.1f}" if math.isfinite(seconds) else MISSING


def duration(seconds: float) -> str:
    """Format seconds: 0.84 s, 12.4 s, 12 min 4 s, 1 h 2 min."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(value: object) -> str:
    """Format an ISO date and time to the minute; return other text unchanged."""
    try:
        return f"{datetime.fromisoformat(str(value)):%d %B %Y, %H:%M %Z}".strip()
    except ValueError:
        return plain(value)


def sure(confidence: float) -> str:
    """Format a confidence, rounded down, so that only 1 itself is 100 %."""
    return percent(math.floor(1000 * confidence) / 1000, 1) if confidence == confidence else MISSING


def listed(words: Sequence[object]) -> str:
    """Join items as in: 1, 2 and 3."""
    *first, last = [str(word) for word in words] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def plain(value: object) -> str:
    """Format any JSON value on one line."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)


def cut(path: str, most: int = 60) -> str:
    """Format a path on one line, without its start if it is long: its end is the file's name."""
    text = shown(path, 1000)
    return text if len(text) <= most else f"...{text[3 - most :]}"


def flat(found: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the entries of a JSON object as text; nested ones are named `outer.inner`."""
    entries: list[tuple[str, str]] = []
    for key, value in found.items():
        if isinstance(value, dict):
            entries += flat(value, f"{prefix}{key}.")
        else:
            entries.append((f"{prefix}{key}", plain(value)))
    return entries


def fact(found: dict[str, Any], name: str) -> float:
    """Return a number of a JSON object; NaN if it is missing or not a number."""
    value = found.get(name)
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if fits else math.nan  # type: ignore[arg-type]


def hardware(run: Run) -> str:
    """Return the name of the GPU, or of the CPU with its number of cores."""
    gpu, cpu = (run.environment.get(key) for key in ("gpu", "cpu"))
    if gpu or not cpu:
        return _named(gpu)
    cores = cpu.get("physical_cores") if isinstance(cpu, dict) else None
    return f"{_named(cpu)}, {plain(cores)} cores" if cores else _named(cpu)


def _named(part: object) -> str:
    return plain(part.get("name")) if isinstance(part, dict) else plain(part)


def is_mission(run: Run) -> bool:
    """Return whether the recipe is that of the source experiment: 50 epochs of ResNet18 on all of
    CIFAR-10."""
    recipe = run.recipe
    stops = ("train_limit", "test_limit", "target_accuracy", "max_time", "stop_after")
    return (
        recipe.get("dataset") == "cifar10"
        and recipe.get("recipe") in ("resnet18", "reference")
        and recipe.get("model", "resnet18") == "resnet18"
        and recipe.get("epochs") == 50
        and recipe.get("monitor", "accuracy") == "accuracy"
        and all(recipe.get(name) is None for name in stops)
    )


def smoothing(run: Run) -> str:
    """Describe the label smoothing, which only the training loss has; '' if off."""
    share = fact(run.recipe, "label_smoothing")
    return f"label smoothing {share:g}" if share > 0 else ""


def loss_names(run: Run) -> tuple[str, str]:
    """Return the names of training and held-out loss, which mention label smoothing if it is on."""
    smoothed = smoothing(run)
    held = run.held_out
    return (f"train ({smoothed})", f"{held} (without)") if smoothed else ("train", held)


def losses_in_words(run: Run) -> str:
    """Explain why training and held-out loss cannot be compared; empty if they can."""
    if not (smoothed := smoothing(run)):
        return ""
    return f"Training loss has {smoothed}, {run.held_out} loss has none: they cannot be compared."


def best_in_words(run: Run) -> str:
    """Explain the ring that marks the best epoch."""
    if (best := run.best) is None:
        return ""
    accuracy = percent(best.test_accuracy)
    held = run.held_out
    return f"Ring: the best epoch on the {held} images, {accuracy} in epoch {best.epoch}."


def unfinished(run: Run) -> bool:
    """Return whether the run is still training or was interrupted."""
    return not run.summary


def ending(sweep: Sweep) -> str:
    """Describe what the range test suggests and why it ended."""
    suggestion = f"Suggestion {rate(sweep.suggestion)}, by the rule “{sweep.rule}”."
    if sweep.stopped in ("", "finished"):
        return f"{suggestion} The test ran to its end."
    return f"{suggestion} The test stopped early ({sweep.stopped})."


def share_sum(parts: dict[str, Any]) -> list[tuple[str, float]]:
    """Return the parts of the ledger that took time, with their seconds."""
    timed = [(name.replace("_", " "), fact(parts, name)) for name in parts]
    return [(name, seconds) for name, seconds in timed if seconds > 0]
