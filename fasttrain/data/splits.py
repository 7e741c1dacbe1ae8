"""Decides which images train, which choose the best epoch and which test it; draws limits.

Copies of an image, and images of one group, are never on both sides, and a new file does not move
any other file. It works on listings alone and reads no file.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import DataError, UsageError
from .listing import Listing, Row

FRACTION = 0.15


class Roles(NamedTuple):
    """The roles of the held-out splits: `chooses` decides plateaus and the best epoch, `final` is
    evaluated once, at the end. Both are the same split if only one is held out; `line` says so."""

    chooses: str
    final: str
    line: str


def assign_roles(listing: Listing, *, fraction: float = FRACTION) -> tuple[Listing, Roles]:
    """Return the listing with a held-out split, and the roles of its splits.

    With val and test both are used; a single one has both roles; with none, `fraction` of train
    becomes val. Raises DataError if nothing can be held out.
    """
    held = [name for name in listing.splits if name != "train"]
    if len(held) == 2:
        return listing, Roles(
            "val", "test", "val chooses the best epoch; test is evaluated once, at the end"
        )
    if held:
        only = held[0]
        return listing, Roles(
            only, only, f"{only} chooses the best epoch and is reported: there is no other split"
        )
    listing = holdout(listing, fraction)
    if "val" not in listing.splits:
        raise DataError(
            "data set: no class has two different images, so none can be held out. Add images, or "
            "a split val or test."
        )
    count = len(listing.of_split("val"))
    line = f"{count:,} images of train held out as val; val chooses the best epoch and is reported"
    return listing, Roles("val", "val", line)


def holdout(listing: Listing, fraction: float = FRACTION) -> Listing:
    """Move about `fraction` of each class from train to val.

    Every class with two different images gives at least one, and none gives its last. A unit, all
    copies of an image or all of a group, is held out if its digest is below a threshold, so that
    other files do not matter.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"--holdout ({fraction:g}): not between 0 and 1. Give 0.15, for example.")
    train = listing.of_split("train")
    unit_of = _units(train)
    units: dict[str, set[str]] = defaultdict(set)
    for row, unit in zip(train, unit_of, strict=True):
        units[row.label].add(unit)
    out = {unit for unit in unit_of if int(unit[:13], 16) < fraction * 16**13}
    alone = {next(iter(of)) for of in units.values() if len(of) == 1}
    for of in (units[label] for label in sorted(units)):
        if len(of) > 1 and not of & out and of - alone:
            out.add(min(of - alone))
    for of in (units[label] for label in sorted(units)):
        if of <= out:
            out.remove(max(of))
    rows = [
        row._replace(split="val" if unit in out else "train")
        for row, unit in zip(train, unit_of, strict=True)
    ]
    return Listing.of([*rows, *listing.rows[len(train) :]], listing.bad)


def limit(listing: Listing, split: str, count: int) -> Listing:
    """Keep at most `count` images of a split, drawn per class by content.

    Raises UsageError if train would lose a class.
    """
    start, stop = listing.span(split)
    rows = listing.rows[start:stop]
    classes = len({row.label for row in rows})
    if split == "train" and count < classes:
        raise UsageError(
            f"--train-limit ({count:,}): there are {classes:,} classes, and each keeps an image. "
            f"Give {classes:,} or more."
        )
    kept = per_class([row.label for row in rows], [row.sha256 + row.path for row in rows], count)
    rows = tuple(rows[index] for index in kept)
    return Listing(listing.rows[:start] + rows + listing.rows[stop:], listing.bad)


def per_class(labels: Sequence[object], keys: Iterable[str], count: int) -> list[int]:
    """Return at most `count` indices of `labels`, ascending: a share of each class.

    Within a class those with the smallest digest of their key are taken. Shares are in proportion
    to the classes' sizes, and at least one while `count` allows it.
    """
    places: dict[object, list[tuple[str, int]]] = defaultdict(list)
    for place, (label, key) in enumerate(zip(labels, keys, strict=True)):
        places[label].append((_digest(key), place))
    if count >= len(labels):
        return list(range(len(labels)))
    shares = _shares({label: len(of) for label, of in places.items()}, count)
    return sorted(place for label, of in places.items() for _, place in sorted(of)[: shares[label]])


def _shares(sizes: dict[object, int], count: int) -> dict[object, int]:
    """Divide `count` in proportion to `sizes`, at least one each while there are enough."""
    total = sum(sizes.values())
    order = sorted(sizes, key=lambda label: (-sizes[label], str(label)))
    wanted = {label: count * sizes[label] / total for label in order}
    shares = {label: max(int(wanted[label]), 1) for label in order[:count]}
    while (lacking := count - sum(shares.values())) > 0:
        shares[max(shares, key=lambda label: wanted[label] - shares[label])] += 1
    for _ in range(-lacking):  # take back what classes with a share below one were given
        large = (label for label in shares if shares[label] > 1)
        shares[max(large, key=lambda label: shares[label] - wanted[label])] -= 1
    return {label: shares.get(label, 0) for label in order}


def _units(rows: Sequence[Row]) -> list[str]:
    """Return a digest for each row, the same for copies of an image and for rows of a group."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for row in rows:
        content = root(f"content {row.sha256}")
        if row.group:
            parent[content] = root(f"group {row.group}")
    smallest: dict[str, str] = {}
    for name in list(parent):
        digest, top = _digest(name), root(name)
        smallest[top] = min(digest, smallest.get(top, digest))
    return [smallest[root(f"content {row.sha256}")] for row in rows]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
