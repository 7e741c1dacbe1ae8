"""Sets of points in time, as lists of intervals: what a share of a trace is computed from.

Work overlaps on streams and threads; a union counts each moment once.
"""

from __future__ import annotations

from collections.abc import Iterable

Intervals = list[tuple[float, float]]


def union(intervals: Iterable[tuple[float, float]]) -> Intervals:
    """Disjoint intervals that cover the same points, in order."""
    covered: Intervals = []
    for start, stop in sorted(intervals):
        if covered and start <= covered[-1][1]:
            covered[-1] = (covered[-1][0], max(stop, covered[-1][1]))
        else:
            covered.append((start, stop))
    return covered


def within(a: Intervals, b: Intervals) -> Intervals:
    """The points in both of two lists of disjoint intervals in order."""
    both, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        start, stop = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < stop:
            both.append((start, stop))
        i, j = (i + 1, j) if a[i][1] < b[j][1] else (i, j + 1)
    return both


def without(a: Intervals, b: Intervals) -> Intervals:
    """The points of `a` that are not in `b`."""
    edges = [float("-inf"), *(edge for interval in b for edge in interval), float("inf")]
    return within(a, list(zip(edges[::2], edges[1::2], strict=True)))


def length(intervals: Intervals) -> float:
    return sum(stop - start for start, stop in intervals)
