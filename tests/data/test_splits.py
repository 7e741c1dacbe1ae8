"""Held-out images and limits: by content, by class, and the same whatever else is there."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrain.data import splits
from fasttrain.data.listing import Listing, Row
from fasttrain.errors import DataError, UsageError


def row(number, label, split="train", *, content=None, group=""):
    sha256 = f"{content if content is not None else number:064x}"
    return Row(f"{label}/{number}", sha256, 8, 8, "RGB", label, split, group)


def rows(**counts):
    """Rows that are all different: a=10 gives ten of class a."""
    return [
        row(1000 * place + number, label)
        for place, (label, count) in enumerate(counts.items())
        for number in range(count)
    ]


def sides(listing):
    return {row.path: row.split for row in listing.rows}


def test_about_the_fraction_of_each_class_is_held_out():
    held = splits.holdout(Listing.of(rows(a=2000, b=1000, c=2)), 0.15)
    counts = Counter(row.label for row in held.of_split("val"))
    assert 240 <= counts["a"] <= 360
    assert 110 <= counts["b"] <= 190
    assert counts["c"] == 1
    assert len(held.rows) == 3002


def test_new_files_move_nobody():
    before = sides(splits.holdout(Listing.of(rows(a=100, b=100)), 0.15))
    after = sides(splits.holdout(Listing.of([*rows(a=150, b=100), *rows(z=50)]), 0.15))
    assert {path: after[path] for path in before} == before


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 12), st.sampled_from(["", "g", "h", "i"])),
        max_size=40,
    ),
    st.floats(0.01, 0.99),
)
def test_copies_and_groups_never_cross_and_no_class_is_emptied(drawn, fraction):
    listing = Listing.of(
        row(number, label, content=content, group=group)
        for number, (label, content, group) in enumerate(drawn)
    )
    held = splits.holdout(listing, fraction)
    assert {row._replace(split="train") for row in held.rows} == set(listing.rows)
    for of in (lambda row: row.sha256, lambda row: row.group or row.path):
        where = {}
        for one in held.rows:
            where.setdefault(of(one), set()).add(one.split)
        assert all(len(found) == 1 for found in where.values())
    assert held.classes == listing.classes


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.floats(0.01, 0.99))
def test_every_class_with_two_different_images_is_on_both_sides(counts, fraction):
    made = rows(**{f"c{number}": count for number, count in enumerate(counts)})
    held = splits.holdout(Listing.of(made), fraction)
    for number, count in enumerate(counts):
        found = Counter(row.split for row in held.rows if row.label == f"c{number}")
        assert found["train"] >= 1
        assert found["val"] >= (count > 1)


def test_copies_would_cross_without_their_digest():
    """A control: units by path, and not by content, part them."""
    made = Listing.of(row(number, "ab"[number % 2], content=number // 40) for number in range(400))
    held = splits.holdout(made, 0.3)
    crossing = {row.sha256 for row in held.of_split("val")} & {
        row.sha256 for row in held.of_split("train")
    }
    assert not crossing
    parted = Listing.of(row._replace(sha256=f"{n:064x}") for n, row in enumerate(made.rows))
    held = sides(splits.holdout(parted, 0.3))
    assert any(
        {held[row.path] for row in made.rows if row.sha256 == one} == {"train", "val"}
        for one in {row.sha256 for row in made.rows}
    )


@pytest.mark.parametrize(
    ("given", "chooses", "final"),
    [
        (("val", "test"), "val", "test"),
        (("val",), "val", "val"),
        (("test",), "test", "test"),
        ((), "val", "val"),
    ],
)
def test_who_chooses_and_who_is_evaluated_at_the_end(given, chooses, final):
    made = rows(a=10, b=10) + [row(5000, "a", split) for split in given]
    listing, roles = splits.assign_roles(Listing.of(made))
    assert (roles.chooses, roles.final) == (chooses, final)
    assert (listing == Listing.of(made)) == bool(given)
    assert listing.of_split(roles.final)


def test_what_cannot_be_held_out_is_refused():
    with pytest.raises(DataError, match="none can be held out"):
        splits.assign_roles(Listing.of(rows(a=1, b=1)))
    for fraction in (0, 1, -1, 2):
        with pytest.raises(UsageError, match="--holdout"):
            splits.holdout(Listing.of(rows(a=5)), fraction)


def test_a_limit_is_drawn_per_class_and_does_not_depend_on_names_or_order():
    made = Listing.of(rows(a=600, b=300, c=100))
    kept = splits.limit(made, "train", 100)
    assert Counter(row.label for row in kept.rows) == {"a": 60, "b": 30, "c": 10}
    paths = [row.path for row in kept.rows]
    assert paths == sorted(paths)
    assert paths != [row.path for row in made.rows[:100]]
    more = splits.limit(made, "train", 200)
    assert set(kept.rows) < set(more.rows)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(0, 400))
def test_a_limit_keeps_its_number_and_every_class(counts, count):
    labels = [number for number, size in enumerate(counts) for _ in range(size)]
    kept = splits.per_class(labels, map(str, range(len(labels))), count)
    assert len(kept) == min(count, len(labels))
    assert kept == sorted(set(kept))
    found = Counter(labels[place] for place in kept)
    if count >= len(counts):
        assert set(found) == set(range(len(counts)))


def test_a_limit_under_the_number_of_classes_is_refused_for_train_alone():
    made = Listing.of(rows(a=5, b=5, c=5) + [row(9000 + n, "abc"[n], "test") for n in range(3)])
    with pytest.raises(UsageError, match="3 classes"):
        splits.limit(made, "train", 2)
    assert len(splits.limit(made, "test", 2).of_split("test")) == 2
    assert splits.limit(made, "train", 99) == made
