"""What is asked of gloo and NCCL that torch has no public function for.

Each function here does nothing, or returns 0, where there is no process group.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from threading import Thread
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _abort_process_group

PATIENCE = 300.0  # seconds that one waits for another's part of a collective outside the training
MARGIN = 60.0  # that a collective may take longer than --hang-timeout, which so decides first
# On its time limit torch ends the process with SIGABRT, so NCCL's is longer than all of ours.
NCCL_MARGIN = 300.0
WEEK = 7 * 86400.0
LEFT = 2.0  # seconds that the connections of a failed group have to close in


def all_backends() -> set[Any]:
    """torch's objects of gloo and NCCL: those of the group that there are."""
    group = dist.group.WORLD
    if group is None:
        return set()
    return {group._get_backend(device) for device in group._device_types}


def begun_collectives() -> int:
    """How many collectives this process has begun."""
    with suppress(RuntimeError):  # the group ends just now
        return sum(each._get_sequence_number_for_group() for each in all_backends())
    return 0


def set_time_limit(seconds: float | None = None) -> None:
    """Let a collective wait for at least `seconds` and PATIENCE; 0 is as good as without end."""
    limit = PATIENCE if seconds is None else max(PATIENCE, seconds + MARGIN) if seconds else WEEK
    for each in all_backends():
        more = NCCL_MARGIN if each.name() == "nccl" else 0.0
        each._set_default_timeout(timedelta(seconds=limit + more))


def abandon() -> None:
    """End the group of a training that failed, in at most LEFT seconds.

    destroy_process_group finishes what NCCL has begun: with a process that died it never returns.
    """

    def end() -> None:
        with suppress(RuntimeError, ValueError, AssertionError):
            nccl = any(each.name() == "nccl" for each in all_backends())
            _abort_process_group() if nccl else dist.destroy_process_group()

    thread = Thread(target=end, name="abandon", daemon=True)
    thread.start()
    thread.join(LEFT)
