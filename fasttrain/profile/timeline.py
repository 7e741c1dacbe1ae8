"""Reads a profiler's trace: what the device did in the recorded steps, and what it waited for.

The numbers come from the trace's own JSON, so that they are those a person sees in Perfetto, and a
trace of a GPU can be read where there is none.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .intervals import length, union, within, without

SPANS = ("data", "step", "optimizer", "eval")
DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
LAUNCH = {"cuda_runtime", "cuda_driver"}

Event = dict[str, Any]


class Operator(NamedTuple):
    """A kernel, or an operator without those it calls: calls and seconds a step."""

    name: str
    calls: float
    seconds: float


class Profile(NamedTuple):
    """Where the time of the recorded training steps went.

    `busy`, `data_wait` and `host_gap` are shares of the time and add up to 1: the device works;
    it stands still while the host waits for a batch; it stands still for any other reason. On a CPU
    host and device are one: what is in no operator is a gap. `spans` are seconds each on the host,
    `top` the operators with the most time of their own.
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
        """Plain values, for profile.json."""
        return {**self._asdict(), "top": [operator._asdict() for operator in self.top]}


def read(path: Path) -> list[Event]:
    """The events with a duration of a trace file, sorted by time, in seconds."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        events = [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]
    for event in events:
        event["start"] = event["ts"] * 1e-6
        event["stop"] = event["start"] + event["dur"] * 1e-6
    return sorted(events, key=lambda event: (event["start"], -event["stop"]))


def summarise(events: Sequence[Event], *, top: int = 10) -> Profile | None:
    """The shares of the recorded training steps; None if there is not one whole step.

    With several steps the first only marks where the time begins, so that each counted step has
    its share of what lies between two.
    """
    named = {name: [e for e in events if _is_span(e) and e["name"] == name] for name in SPANS}
    steps = named["step"]
    if not steps:
        return None
    work = [event for event in events if event.get("cat") in DEVICE]
    device = "cuda" if work else "cpu"
    launched = {_correlation(e): e["start"] for e in events if e.get("cat") in LAUNCH}
    ends = [_end(step, work, launched) for step in steps]
    alone = len(steps) == 1
    begin, end = (_asked(steps[0], named["data"]) if alone else ends[0]), ends[-1]
    count = 1 if alone else len(steps) - 1
    work = work or [event for event in events if event.get("cat") == "cpu_op"]
    data = union((e["start"], e["stop"]) for e in named["data"])
    busy = union((e["start"], e["stop"]) for e in work)
    if device == "cpu":
        busy = without(busy, data)
    whole = [(begin, end)]
    busy_seconds = length(within(busy, whole))
    wait_seconds = length(within(without(data, busy), whole))
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
    """The summary as lines of text; `untraced` is a step's seconds without the profiler, in
    `epoch`."""
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
    return event.get("cat") == "user_annotation"  # the GPU's shadow of it is gpu_user_annotation


def _correlation(event: Event) -> Any:
    return event.get("args", {}).get("correlation")


def _end(step: Event, work: list[Event], launched: dict[Any, float]) -> float:
    """When the last work that was launched in a step is done."""
    mine = (
        event["stop"]
        for event in work
        if step["start"] <= launched.get(_correlation(event), float("-inf")) <= step["stop"]
    )
    return max(mine, default=step["stop"])


def _asked(step: Event, data: list[Event]) -> float:
    """When the host began to wait for the batch of a step."""
    return max((e["start"] for e in data if e["start"] < step["start"]), default=step["start"])


def _mean(events: list[Event]) -> float:
    return sum(event["stop"] - event["start"] for event in events) / len(events)


def _top(work: list[Event], steps: int, device: str) -> list[Operator]:
    """Operators by their own time, most first; kernels call nothing."""
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
