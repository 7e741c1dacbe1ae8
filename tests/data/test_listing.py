"""The listing is one value whatever the order it came in, and joins splits by name."""

import random

import pytest

from fasttrain.data import listing, listing_file
from fasttrain.data.listing import Bad, Listing, Row
from fasttrain.errors import DataError


def row(path, label, split="train", **changes):
    values = {"sha256": path * 2, "height": 3, "width": 4, "mode": "RGB", **changes}
    return Row(path=path, label=label, split=split, **values)


ROWS = [
    row("train/b/1", "b"),
    row("train/10/1", "10"),
    row("train/2/1", "2"),
    row("val/2/1", "2", "val"),
    row("test/b/1", "b", "test"),
    row("test/2/1", "2", "test"),
]


def test_classes_are_lexicographic_and_other_splits_are_joined_by_name():
    made = Listing.of(ROWS)
    assert made.classes == ("10", "2", "b")
    assert made.labels("train").tolist() == [0, 1, 2]
    assert made.labels("val").tolist() == [1]
    assert made.labels("test").tolist() == [1, 2]  # a scan of its own would have said 0, 1
    assert made.splits == ("train", "val", "test")
    assert [made.span(name) for name in made.splits] == [(0, 3), (3, 4), (4, 6)]


def test_the_order_of_the_rows_does_not_matter_and_any_change_of_content_does():
    mixed = random.Random(0).sample(ROWS, len(ROWS))
    assert Listing.of(mixed) == Listing.of(ROWS)
    digests = {Listing.of(ROWS).digest, Listing.of(mixed).digest}
    assert len(digests) == 1
    for field, value in (("path", "z"), ("sha256", "0"), ("label", "2"), ("group", "g")):
        digests.add(Listing.of([ROWS[0]._replace(**{field: value}), *ROWS[1:]]).digest)
    assert len(digests) == 5


def test_a_class_that_train_has_not_is_refused_and_one_that_is_missing_is_said():
    assert Listing.of(ROWS).check("x") == ["val has no image of 10, b", "test has no image of 10"]
    with pytest.raises(DataError, match=r"val has classes that are not in train \(cat\)"):
        Listing.of([*ROWS, row("val/cat/1", "cat", "val")]).check("x")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no usable image to train on"),
        ([row("test/a/1", "a", "test")], "no usable image to train on"),
        ([row("train/a/1", "a")], "only one class"),
    ],
)
def test_nothing_to_train_on_is_refused(rows, said):
    with pytest.raises(DataError, match=said) as caught:
        Listing.of(rows, [Bad("train/x.png", "x", "train", "empty")]).check("x")
    assert caught.value.code == 4
    assert "\n" not in str(caught.value)


ODD = [
    "a,b",
    'q"uote',
    "line\nfeed",
    "carriage\rreturn",
    "日本語",
    "é",
    "\udcff raw byte",
    " ",
    "=1+1",
]


def test_it_is_read_back_as_it_was_whatever_the_names(tmp_path):
    made = Listing.of(
        [row(f"train/{name}/1", name, group=name, note="EXIF 6, alpha") for name in ODD],
        [Bad(f"train/{name}/bad", name, "train", f"damaged: {name}") for name in ODD],
    )
    listing_file.write(tmp_path / "listing.csv", made)
    again = listing_file.read(tmp_path / "listing.csv")
    assert again == made
    assert again.digest == made.digest
    assert again.classes == tuple(sorted(ODD))


@pytest.mark.parametrize(
    "text",
    ["", "path,label\n", "heading", None, ",".join(listing_file.COLUMNS) + "\na,b\n"]
    + [
        ",".join(listing_file.COLUMNS) + f"\n{line}\n"
        for line in ("p,s,x,1,m,l,train,,,", "p,s,1,1,m,l,up,,,")
    ],
)
def test_a_damaged_listing_is_refused_in_one_line(tmp_path, text):
    if text is not None:
        (tmp_path / "listing.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        listing_file.read(tmp_path / "listing.csv")
    assert "\n" not in str(caught.value)


def test_a_long_list_is_cut_and_counted():
    bad = [Bad(f"{number}.png", "a", "train", "empty") for number in range(25)]
    said = listing.listed(bad)
    assert said.count("(empty)") == 20
    assert said.endswith("; and 5 more")
    assert not listing.listed(bad[:20]).endswith("more")
