"""Rates of providers that take turns, where one that fails drops out with its reason.

On a machine that has never run them, one of ten may raise: the others are still worth their time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from benchmarks.conftest import compared, wait
from benchmarks.gpu.record import Job, said

Action = Callable[[], int]
"""Does some work and returns the number of its images."""


def rates(
    makers: Mapping[str, Callable[[], Action]], job: Job, *, rounds: int, peer: str, what: str
) -> dict[str, dict[str, Any]]:
    """Make each provider, call it once to warm up, then let them take turns, `rounds` times.

    Returns for each the n, the median and the best images/s, the ratio to `peer`, if it is there,
    and the seconds of the first call. Fewer rounds are taken if the stage's time ends before.
    """
    actions: dict[str, Action] = {}
    first: dict[str, float] = {}
    seconds: dict[str, list[float]] = {}  # per image

    def call(name: str, action: Callable[[], Any]) -> tuple[Any, float]:
        began = perf_counter()
        try:
            result = action()
            wait()
        except Exception as error:
            job.record.note(f"{what}, {name}: left out: {said(error)}")
            actions.pop(name, None)
            seconds.pop(name, None)
            return None, 0.0
        return result, perf_counter() - began

    for name, make in makers.items():
        if job.left() <= 0:
            job.record.note(f"{what}, {name}: no time left")
            continue
        made, _ = call(name, make)
        if made is not None:
            actions[name], seconds[name] = made, []
            _, first[name] = call(name, made)
    for done in range(rounds):
        if job.left() <= 0 and done:
            break
        for name, action in list(actions.items()):
            images, took = call(name, action)
            if images:
                seconds[name].append(took / images)
    if not seconds:
        return {}
    found = compared(seconds, images=1, peer=peer if peer in seconds else next(iter(seconds)))
    return {name: {**row, "first_step_seconds": first[name]} for name, row in found.items()}
