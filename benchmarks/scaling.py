"""Computes the table of docs/scaling.md: expected scaling, from inputs that are listed there.

    python -m benchmarks.scaling   writes the table into docs/scaling.md

The inputs for the network are counted or measured on a CPU; those for a GPU are assumed.
"""

from __future__ import annotations

from benchmarks.table import END, put

BEGIN = "<!-- table: python -m benchmarks.scaling -->"
IMAGES = 50_000
GRADIENTS = 11_173_962 * 4  # bytes, float32: counted

RATE = 43_000  # images/s of a GPU: assumed, a quarter of an H200's peak in bf16
LAUNCHES = 2.0e-3  # s a step on the host alone, without CUDA graphs: assumed
NVLINK, NETWORK = 450e9, 400e9  # bytes/s a GPU within a node; a node of 8 GPUs: data sheets
HOP_INSIDE, HOP_OUTSIDE = 3e-6, 10e-6  # s a hop of a ring: assumed
BUCKETS = 3  # measured
HIDDEN = 2 / 3  # share of a step in backward, which hides all buckets but the last

CASES = [(128, n) for n in (1, 8, 64)]
CASES += [(1024, n) for n in (8, 64, 512)] + [(8192, n) for n in (8, 64, 512)]


def all_reduce(processes: int) -> float:
    """Seconds of a ring all-reduce: 2 (N - 1) / N of the bytes, 2 (N - 1) hops per bucket."""
    if processes == 1:
        return 0.0
    nodes = (processes + 7) // 8
    moved = 2 * (processes - 1) / processes * GRADIENTS
    # Between nodes each GPU has its own network card and ring, so the rate is that of the node.
    seconds = moved / (NVLINK if nodes == 1 else NETWORK)
    hops = 2 * (min(processes, 8) - 1) * HOP_INSIDE + 2 * (nodes - 1) * HOP_OUTSIDE
    return seconds + BUCKETS * hops


def row(batch: int, processes: int) -> list[str]:
    """One line of the table."""
    local = batch // processes
    compute = local / RATE
    reduce = all_reduce(processes)
    exposed = max(reduce / BUCKETS, reduce - HIDDEN * compute) if processes > 1 else 0.0
    step = max(compute + exposed, LAUNCHES)
    steps = IMAGES // batch
    parts = {"compute": compute, "all-reduce": exposed, "launches": LAUNCHES - compute - exposed}
    return [
        f"{batch:,}",
        str(processes),
        str(local),
        f"{1000 * compute:.2f}",
        f"{1000 * reduce:.2f}",
        f"{1000 * exposed:.2f}",
        f"{1000 * step:.2f}",
        str(steps),
        f"{steps * step:.3f}",
        f"{steps * batch / (steps * step) / RATE:.1f}",
        max(parts, key=lambda name: parts[name]),
    ]


def table() -> str:
    """The table in Markdown."""
    head = ["global batch", "GPUs", "images per GPU", "compute", "all-reduce", "exposed", "step"]
    head += ["steps per epoch", "epoch, s", "times one GPU's rate", "largest part"]
    lines = [head, ["---"] * len(head), *(row(*case) for case in CASES if case[0] >= case[1])]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    put(table(), begin=BEGIN, end=END)
