"""What fasttrain needs of gloo and NCCL and torch has no public function for.

Without a process group each function here does nothing, or returns 0.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from threading import Thread
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _abort_process_group

PATIENCE = 300.0  # seconds that a collective outside training may take
MARGIN = 60.0  # seconds on top of --hang-timeout, so that --hang-timeout ends a hang first
# At NCCL's time limit torch ends the process with SIGABRT, so this limit is the longest.
NCCL_MARGIN = 300.0
WEEK = 7 * 86400.0
LEFT = 2.0  # seconds in which the connections of a failed group must close


def all_backends() -> set[Any]:
    """Return torch's gloo and NCCL objects of the process group."""
    group = dist.group.WORLD
    if group is None:
        return set()
    return {group._get_backend(device) for device in group._device_types}


def begun_collectives() -> int:
    """Return how many collectives this process has begun."""
    with suppress(RuntimeError):  # the group is ending
        return sum(each._get_sequence_number_for_group() for each in all_backends())
    return 0


def set_time_limit(seconds: float | None = None) -> None:
    """Set the time limit of collectives to at least `seconds` and PATIENCE; 0 means a week."""
    limit = PATIENCE if seconds is None else max(PATIENCE, seconds + MARGIN) if seconds else WEEK
    for each in all_backends():
        more = NCCL_MARGIN if each.name() == "nccl" else 0.0
        each._set_default_timeout(timedelta(seconds=limit + more))


def abandon() -> None:
    """End the group of a training that failed, within LEFT seconds.

    destroy_process_group waits for what NCCL has begun, and never returns if a process has died.
    """

    def end() -> None:
        with suppress(RuntimeError, ValueError, AssertionError):
            nccl = any(each.name() == "nccl" for each in all_backends())
            _abort_process_group() if nccl else dist.destroy_process_group()

    thread = Thread(target=end, name="abandon", daemon=True)
    thread.start()
    thread.join(LEFT)
