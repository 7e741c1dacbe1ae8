"""Hooks of the loop with which the processes of a group agree, and the words for where it is."""

from __future__ import annotations

from itertools import count

import torch

from ..engine.loop import Hook, Run
from ..parallel.group import Group
from ..parallel.signals import Signals

STEPS_PER_TALK = 16  # on GPUs: hosts that ask each other at every step would wait for each other


def every_few_steps(group: Group, device: torch.device, *hooks: Hook) -> Hook:
    """`hooks`, which ask the other processes, at every step or, on GPUs, at some."""
    often = group.world == 1 or device.type == "cpu"
    calls = count(1)

    def hook(run: Run) -> None:
        if often or next(calls) % STEPS_PER_TALK == 0:
            for each in hooks:
                each(run)

    return hook


def describe_position(run: Run) -> str:
    """Return where a run is: its epoch and step."""
    if run.phase == "test":
        return f"epoch {run.epoch + 1}, evaluation"
    return f"epoch {run.epoch + 1}, step {run.step + 1}"


def stop_on_signal(group: Group, signals: Signals) -> Hook:
    """The hook that raises Stopped, in all processes at once, if a signal has come to any."""

    def hook(run: Run) -> None:
        signals.pending = group.signal(signals.pending or 0) or None
        signals.check()

    return hook
