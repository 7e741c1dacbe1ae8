"""Finds what limits training on a machine, and which change would gain the most.

These are pure functions of measured numbers, so that they can be tested without the machine.
"""

from __future__ import annotations

from typing import NamedTuple

WORTH = 1.05  # runs on a shared machine differ by a few percent; a smaller gain does not count
LAUNCH_BOUND = 0.8
NOISY = 0.25


class Trial(NamedTuple):
    """Images per second with one setting changed.

    `kind` is precision, batch, compile, graphs, threads or loader.
    """

    kind: str
    change: str
    images_per_second: float


class Measured(NamedTuple):
    """Images per second of the parts of training.

    `loader` and `step` are the two measured alone; `both` is training, and `wait` the share of its
    time spent waiting for data. `steps` and `loaders` are trials with other settings, measured
    alone. `busy` is the share of a step in which the GPU works, or None on a CPU; `compiled` says
    whether the step was compiled. `mfu` is the step's FLOP rate divided by that of a matrix product
    on this machine. `spread` is the difference between the fastest and the slowest timing of the
    step, divided by their median.
    """

    batch_size: int
    loader: float
    step: float
    both: float
    wait: float
    steps: list[Trial]
    loaders: list[Trial]
    busy: float | None
    compiled: bool
    mfu: float
    spread: float


class Finding(NamedTuple):
    """A limit, what to change, and the speed-up; with `bound` the speed-up is an upper bound."""

    limit: str
    change: str
    gain: float
    bound: bool


def findings(measured: Measured) -> list[Finding]:
    """The changes that are worth making, the largest gain first; empty if there are none."""
    found = [_loader(measured), *(_step(measured, trial) for trial in measured.steps)]
    if measured.busy is not None and measured.busy < LAUNCH_BOUND:
        found.append(_launches(measured, measured.busy))
    worth = [finding for finding in found if finding.gain >= WORTH]
    return sorted(worth, key=lambda finding: -finding.gain)


def verdict(measured: Measured) -> str:
    """The findings as lines of text, the recommendation first."""
    lines = [
        f"{finding.limit}: {finding.change} ({'at most ' * finding.bound}{finding.gain:.2f}x)"
        for finding in findings(measured)
    ] or [
        f"nothing tried here would gain {WORTH - 1:.0%}. The step itself is the limit, at "
        f"{measured.mfu:.0%} of the speed of matrix products; --profile shows its operators"
    ]
    if measured.spread > NOISY:
        lines.append(
            f"take this with care: the step's timings differ by {measured.spread:.0%}, probably "
            "because other programs run on this machine"
        )
    return "\n".join([f"most to gain: {lines[0]}", *(f"  {line}" for line in lines[1:])])


def untried(measured: Measured, *, allocator: str) -> list[str]:
    """Changes that may help but cannot be measured in this process within seconds."""
    on_cpu = measured.busy is None
    found = []
    if on_cpu and "preloaded" not in allocator:
        # It saves 10 to 20 % of a step on 2 AVX2 cores.
        found.append("jemalloc: LD_PRELOAD its library and run doctor again")
    if not on_cpu and not measured.compiled:
        found.append("torch.compile, which takes a minute: use doctor --compile on")
    return found


def combined_rate(loader: float, step: float) -> float:
    """Images per second of a loader and a step that take turns, from the rate of each alone."""
    return 1 / (1 / loader + 1 / step)


def _loader(measured: Measured) -> Finding:
    """The finding for a loader that never makes training wait."""
    best = max(measured.loaders, key=lambda trial: trial.images_per_second, default=None)
    if best and best.images_per_second > WORTH * measured.loader:
        change = f"{best.change} loads {best.images_per_second / measured.loader:.2f}x the images"
    else:
        change = "give the loader more CPU cores; no other loader tried is faster"
    now = 1 / measured.both
    return Finding("loader-bound", change, now / (now - _outside(measured)), True)


def _step(measured: Measured, trial: Trial) -> Finding:
    """The finding for a faster step; the time outside the step stays the same."""
    limits = {
        "precision": "precision",
        "batch": "small batch",
        "compile": "slowed by torch.compile" if measured.compiled else "no compile",
        "threads": "wrong number of threads",
        "graphs": "launch-bound",
    }
    outside = _outside(measured)
    gain = (1 / measured.step + outside) / (1 / trial.images_per_second + outside)
    return Finding(limits[trial.kind], trial.change, gain, False)


def _outside(measured: Measured) -> float:
    """Seconds per image that training spends outside the step.

    On a CPU it is the time spent waiting for batches. The host cannot see a GPU wait, so on a GPU
    it is the difference of two timings.
    """
    if measured.busy is None:
        return measured.wait / measured.both
    return max(0.0, 1 / measured.both - 1 / measured.step)


def _launches(measured: Measured, busy: float) -> Finding:
    """The finding for a GPU that waits for the host: fewer or larger kernels keep it busy."""
    change = f"--batch-size {4 * measured.batch_size}" if measured.compiled else "--compile on"
    return Finding(f"launch-bound (the GPU works {busy:.0%} of a step)", change, 1 / busy, True)
