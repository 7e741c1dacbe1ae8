"""Summarises a profiler trace: when the device worked, and what it waited for.

The numbers come from the trace's JSON file, so that they match what Perfetto shows, and so that a
trace of a GPU can be read on a machine without one.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .intervals import difference, intersection, length, union

SPANS = ("data", "step", "optimizer", "eval")
DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
LAUNCH = {"cuda_runtime", "cuda_driver"}

Event = dict[str, Any]


class Operator(NamedTuple):
    """A kernel or a CPU operator: its calls and, without nested operators, seconds per step."""

    name: str
    calls: float
    seconds: float


class Profile(NamedTuple):
    """Where the time of the recorded training steps went.

    `busy`, `data_wait` and `host_gap` are shares of the time and add up to 1: the device works; the
    device is idle while the host waits for a batch; the device is idle for another reason. On a CPU
    host and device are the same, and time outside all operators is a gap. `spans` are mean seconds
    on the host, `top` the operators with the most time of their own.
    """

    device: str
    steps: int
    step_seconds: float
    busy: float
    data_wait: float
    host_gap: float
    spans: dict[str, float]
    top: list[Operator]

    def as_dict(self) -> dict[str, Any]:
        """The profile as plain values, for profile.json."""
        return {**self._asdict(), "top": [operator._asdict() for operator in self.top]}


def read(path: Path) -> list[Event]:
    """Read the events with a duration from a trace file, sorted by time, in seconds."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        events = [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]
    for event in events:
        event["start"] = event["ts"] * 1e-6
        event["stop"] = event["start"] + event["dur"] * 1e-6
    return sorted(events, key=lambda event: (event["start"], -event["stop"]))


def summarise(events: Sequence[Event], *, top: int = 10) -> Profile | None:
    """Summarise the recorded training steps; None if there is no complete step.

    With several steps the time starts at the end of the first, so that each counted step includes
    the gap before it.
    """
    named = {name: [e for e in events if _is_span(e) and e["name"] == name] for name in SPANS}
    steps = named["step"]
    if not steps:
        return None
    work = [event for event in events if event.get("cat") in DEVICE]
    device = "cuda" if work else "cpu"
    launched = {_correlation(e): e["start"] for e in events if e.get("cat") in LAUNCH}
    ends = [_end(step, work, launched) for step in steps]
    single = len(steps) == 1
    begin, end = (_wait_start(steps[0], named["data"]) if single else ends[0]), ends[-1]
    count = 1 if single else len(steps) - 1
    work = work or [event for event in events if event.get("cat") == "cpu_op"]
    data = union((e["start"], e["stop"]) for e in named["data"])
    busy = union((e["start"], e["stop"]) for e in work)
    if device == "cpu":
        busy = difference(busy, data)
    whole = [(begin, end)]
    busy_seconds = length(intersection(busy, whole))
    wait_seconds = length(intersection(difference(data, busy), whole))
    return Profile(
        device,
        count,
        (end - begin) / count,
        busy_seconds / (end - begin),
        wait_seconds / (end - begin),
        (end - begin - busy_seconds - wait_seconds) / (end - begin),
        {name: _mean(found) for name, found in named.items() if found},
        _top([e for e in work if begin <= e["start"] < end], count, device)[:top],
    )


def describe(profile: Profile, *, untraced: float | None = None, epoch: int | None = None) -> str:
    """The summary as lines of text.

    `untraced` is the seconds of a step without the profiler, measured in `epoch`.
    """
    spans = ", ".join(f"{name} {_ms(took)}" for name, took in profile.spans.items())
    where = f" in epoch {epoch}" if epoch is not None else ""
    aside = f", {_ms(untraced)} without the profiler{where}" if untraced is not None else ""
    kind = "kernel" if profile.device == "cuda" else "operator, its own time"
    rows = [
        f"  {1e3 * op.seconds:9.3f}  {op.seconds / profile.step_seconds:6.1%}  {op.calls:6.0f}  "
        f"{_short(op.name)}"
        for op in profile.top
    ]
    return "\n".join(
        [
            f"where the time goes: {profile.steps} training steps on {profile.device}, "
            f"{_ms(profile.step_seconds)} each{aside}",
            f"  device busy {profile.busy:.1%}, data wait {profile.data_wait:.1%}, "
            f"host gap {profile.host_gap:.1%}",
            f"  on the host: {spans}",
            f"    ms/step   share   calls  {kind}",
            *rows,
        ]
    )


def _is_span(event: Event) -> bool:
    return event.get("cat") == "user_annotation"  # its copy on the GPU is gpu_user_annotation


def _correlation(event: Event) -> Any:
    return event.get("args", {}).get("correlation")


def _end(step: Event, work: list[Event], launched: dict[Any, float]) -> float:
    """When the last work launched by a step ends."""
    mine = (
        event["stop"]
        for event in work
        if step["start"] <= launched.get(_correlation(event), float("-inf")) <= step["stop"]
    )
    return max(mine, default=step["stop"])


def _wait_start(step: Event, data: list[Event]) -> float:
    """When the host began to wait for the batch of `step`."""
    return max((e["start"] for e in data if e["start"] < step["start"]), default=step["start"])


def _mean(events: list[Event]) -> float:
    return sum(event["stop"] - event["start"] for event in events) / len(events)


def _top(work: list[Event], steps: int, device: str) -> list[Operator]:
    """Operators sorted by their own time, the longest first; kernels have no nested operators."""
    calls: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    open_: dict[Any, list[Event]] = defaultdict(list)
    for event in work:
        took = event["stop"] - event["start"]
        calls[event["name"]] += 1
        seconds[event["name"]] += took
        if device == "cpu":
            callers = open_[event["tid"]]
            while callers and callers[-1]["stop"] <= event["start"]:
                callers.pop()
            if callers:
                seconds[callers[-1]["name"]] -= took
            callers.append(event)
    found = [Operator(name, calls[name] / steps, seconds[name] / steps) for name in calls]
    return sorted(found, key=lambda operator: -operator.seconds)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.{1 if seconds >= 1e-2 else 3}f} ms"


def _short(name: str) -> str:
    name = name.removeprefix("void ")
    return name if len(name) <= 72 else name[:69] + "..."
