"""What limits training on a machine, and the one change that would gain most.

Pure functions of measured numbers, so that a diagnosis can be checked without the machine.
"""

from __future__ import annotations

from typing import NamedTuple

WORTH = 1.05  # runs on a shared machine differ by a few percent: less is no finding
LAUNCH_BOUND = 0.8
NOISY = 0.25


class Trial(NamedTuple):
    """Images per second with one thing changed; `kind` is precision, batch, compile, graphs
    or threads."""

    kind: str
    change: str
    images_per_second: float


class Measured(NamedTuple):
    """Images per second of the parts of training.

    `loader` and `step` are each alone, `both` is training, which waits for data for the share
    `wait` of its time. `steps` and `loaders` are other settings, each alone. `busy` is the share of
    the step in which a GPU works, None on a CPU, and `compiled` whether the step was. `mfu` is the
    share that the step uses of what matrix products reach here; `spread` is that between the
    step's fastest and slowest timing, relative to its median.
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
    """A limit, what to change, and the factor on images per second; `bound`: it is a most."""

    limit: str
    change: str
    gain: float
    bound: bool


def findings(measured: Measured) -> list[Finding]:
    """What is worth changing, the largest gain first; empty if nothing tried is."""
    found = [_loader(measured), *(_step(measured, trial) for trial in measured.steps)]
    if measured.busy is not None and measured.busy < LAUNCH_BOUND:
        found.append(_launches(measured, measured.busy))
    worth = [finding for finding in found if finding.gain >= WORTH]
    return sorted(worth, key=lambda finding: -finding.gain)


def verdict(measured: Measured) -> str:
    """The findings as lines, the recommendation first."""
    lines = [
        f"{finding.limit}: {finding.change} ({'at most ' * finding.bound}{finding.gain:.2f}x)"
        for finding in findings(measured)
    ] or [
        f"nothing tried here would gain {WORTH - 1:.0%}. The step itself is the limit, at "
        f"{measured.mfu:.0%} of the rate of matrix products; --profile shows its operators"
    ]
    if measured.spread > NOISY:
        lines.append(
            f"take this with care: the step's timings differ by {measured.spread:.0%}, as if "
            "something else ran here, too"
        )
    return "\n".join([f"most to gain: {lines[0]}", *(f"  {line}" for line in lines[1:])])


def untried(measured: Measured, *, allocator: str) -> list[str]:
    """What may gain and cannot be measured in seconds inside this process."""
    on_cpu = measured.busy is None
    found = []
    if on_cpu and "preloaded" not in allocator:
        # 10 to 20 % of a step on 2 AVX2 cores.
        found.append("jemalloc: LD_PRELOAD its library and run doctor again")
    if not on_cpu and not measured.compiled:
        found.append("torch.compile, which takes a minute: doctor --compile on")
    return found


def together(loader: float, step: float) -> float:
    """Images per second of a loader and a step that take turns, from each alone."""
    return 1 / (1 / loader + 1 / step)


def _loader(measured: Measured) -> Finding:
    """What training gains if it never waits for data."""
    best = max(measured.loaders, key=lambda trial: trial.images_per_second, default=None)
    if best and best.images_per_second > WORTH * measured.loader:
        change = f"{best.change} gives {best.images_per_second / measured.loader:.2f}x the images"
    else:
        change = "give the loader more CPU cores; no other loader tried is faster"
    now = 1 / measured.both
    return Finding("loader-bound", change, now / (now - _outside(measured)), True)


def _step(measured: Measured, trial: Trial) -> Finding:
    """What a faster step is worth in training: the time outside the step stays."""
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
    """Seconds an image that training takes and the step does not.

    A CPU waits where it asks for a batch; what a GPU waits is not seen from the host, and is the
    difference of two timings.
    """
    if measured.busy is None:
        return measured.wait / measured.both
    return max(0.0, 1 / measured.both - 1 / measured.step)


def _launches(measured: Measured, busy: float) -> Finding:
    """A GPU that waits for the host: fewer or larger kernels would keep it busy."""
    change = f"--batch-size {4 * measured.batch_size}" if measured.compiled else "--compile on"
    return Finding(f"launch-bound (the GPU works {busy:.0%} of a step)", change, 1 / busy, True)
