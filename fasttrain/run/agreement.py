"""Training-loop hooks that communicate between processes, and a description of the position.

Processes communicate rarely on GPUs, because each exchange makes the hosts wait for each other.
"""

from __future__ import annotations

from itertools import count

import torch

from ..engine.state import Hook, Run
from ..parallel.group import Group
from ..parallel.signals import Signals

STEPS_PER_EXCHANGE = 16  # on GPUs: an exchange at every step would make hosts wait for each other


def every_few_steps(group: Group, device: torch.device, *hooks: Hook) -> Hook:
    """Return a hook that calls `hooks` at every step, or every STEPS_PER_EXCHANGE steps on GPUs.

    The hooks communicate with the other processes of `group`.
    """
    often = group.world == 1 or device.type == "cpu"
    calls = count(1)

    def hook(run: Run) -> None:
        if often or next(calls) % STEPS_PER_EXCHANGE == 0:
            for each in hooks:
                each(run)

    return hook


def describe_position(run: Run) -> str:
    """Return the current epoch and step of a run as text."""
    if run.phase == "test":
        return f"epoch {run.epoch + 1}, evaluation"
    return f"epoch {run.epoch + 1}, step {run.step + 1}"


def stop_on_signal(group: Group, signals: Signals) -> Hook:
    """Return a hook that raises Stopped in all processes at once if any received a signal."""

    def hook(run: Run) -> None:
        signals.pending = group.signal(signals.pending or 0) or None
        signals.check()

    return hook
