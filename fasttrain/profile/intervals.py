"""Set operations on time intervals, from which the shares of a trace are computed.

Work overlaps on streams and threads; a union of intervals counts each moment once.
"""

from __future__ import annotations

from collections.abc import Iterable

Intervals = list[tuple[float, float]]


def union(intervals: Iterable[tuple[float, float]]) -> Intervals:
    """Merge intervals into disjoint ones, in order."""
    covered: Intervals = []
    for start, stop in sorted(intervals):
        if covered and start <= covered[-1][1]:
            covered[-1] = (covered[-1][0], max(stop, covered[-1][1]))
        else:
            covered.append((start, stop))
    return covered


def intersection(a: Intervals, b: Intervals) -> Intervals:
    """The points in both `a` and `b`, which are disjoint intervals in order."""
    both, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        start, stop = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < stop:
            both.append((start, stop))
        i, j = (i + 1, j) if a[i][1] < b[j][1] else (i, j + 1)
    return both


def difference(a: Intervals, b: Intervals) -> Intervals:
    """The points of `a` that are not in `b`."""
    edges = [float("-inf"), *(edge for interval in b for edge in interval), float("inf")]
    return intersection(a, list(zip(edges[::2], edges[1::2], strict=True)))


def length(intervals: Intervals) -> float:
    """The total length of disjoint intervals."""
    return sum(stop - start for start, stop in intervals)
