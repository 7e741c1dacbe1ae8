"""What a path is found to be, what is left out and said, and that nothing ends in a traceback."""

import json
import os
import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_images import folder, listing_of, picture, prepared, save

from fasttrain.data import layouts, problems, splits
from fasttrain.errors import DataError


def found_in(path):
    found = layouts.find(path)
    return found, {(entry.split, entry.label, entry.path) for entry in found.entries}


def refused(path, said):
    with pytest.raises(DataError) as caught:
        layouts.find(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.code == 4


def test_a_folder_of_class_folders(tmp_path):
    folder(tmp_path, ["cat", "dog"], count=2)
    found, entries = found_in(tmp_path)
    assert entries == {
        ("train", name, f"{name}/{number}.png") for name in ("cat", "dog") for number in (0, 1)
    }
    assert found.line.endswith("no split given, 2 classes, images: train 4")


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val", "VALIDATION"])
def test_folders_of_splits_under_every_name(tmp_path, val):
    for split in ("train", val, "test"):
        folder(tmp_path / split, ["a", "b"], count=1)
    found, entries = found_in(tmp_path)
    assert {split for split, _, _ in entries} == {"train", "val", "test"}
    assert ("val", "a", f"{val}/a/0.png") in entries
    assert "images: train 2, val 2, test 2" in found.line


def test_two_names_of_one_split_and_a_missing_train_are_refused(tmp_path):
    for split in ("train", "val", "valid"):
        folder(tmp_path / "two" / split, ["a", "b"], count=1)
    refused(tmp_path / "two", "val and valid are both val")
    for split in ("val", "test"):
        folder(tmp_path / "none" / split, ["a", "b"], count=1)
    refused(tmp_path / "none", "no train")


def test_classes_called_val_and_test_are_classes_beside_others(tmp_path):
    folder(tmp_path, ["test", "rest", "val"], count=1)
    assert {label for _, label, _ in found_in(tmp_path)[1]} == {"test", "rest", "val"}


def test_junk_is_skipped_and_what_is_left_out_is_said(tmp_path):
    folder(tmp_path, ["a", "b"], count=1)
    for path in (".git/x.png", "__MACOSX/x.png", "a/.hidden.png", "a/__x.png", "c/.DS_Store"):
        save(tmp_path / path) if path.endswith("png") else (tmp_path / "c").mkdir()
    save(tmp_path / "loose.png")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / "photo.heic").write_text("x")
    found, entries = found_in(tmp_path)
    assert {path for _, _, path in entries} == {"a/0.png", "b/0.png"}
    said = "; ".join(found.notes)
    assert f"folders in {tmp_path.name} without images, left out: c" in said
    assert "1 images in " in said
    assert "2 files that are not images: .txt 1, .heic 1" in said


def test_endings_count_in_any_case_and_nested_folders_belong_to_their_class(tmp_path):
    for name in ("a/1.JPG", "a/deep/er/2.Png", "a/3.jpeg", "b/4.TIFF"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture().save(path, {"jpg": "JPEG", "jpeg": "JPEG"}.get(path.suffix[1:].lower()))
    assert {(label, path) for _, label, path in found_in(tmp_path)[1]} == {
        ("a", "a/1.JPG"),
        ("a", "a/deep/er/2.Png"),
        ("a", "a/3.jpeg"),
        ("b", "b/4.TIFF"),
    }


def test_links_out_of_the_folder_and_to_folders_are_not_followed(tmp_path):
    save(tmp_path / "outside" / "secret.png")
    root = folder(tmp_path / "data", ["a", "b"], count=1)
    (root / "a" / "out.png").symlink_to(tmp_path / "outside" / "secret.png")
    (root / "a" / "loop").symlink_to(root)
    (root / "c").symlink_to(tmp_path / "outside")
    (root / "a" / "gone.png").symlink_to(root / "nothing.png")
    (root / "b" / "same.png").symlink_to(root / "b" / "0.png")
    found, entries = found_in(root)
    assert {path for _, _, path in entries} == {"a/0.png", "b/0.png", "b/same.png"}
    assert any(note.startswith("4 links") for note in found.notes)
    (tmp_path / "linked").symlink_to(root)  # the data set itself may be one
    assert found_in(tmp_path / "linked")[1] == entries


def test_pipes_never_hang_it(tmp_path):
    folder(tmp_path, ["a", "b"], count=1)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    assert len(found_in(tmp_path)[1]) == 2
    (tmp_path / "t.csv").write_text("file_name,label\na/pipe.png,a\na/0.png,a\nb/0.png,b\n")
    listing, _ = listing_of(tmp_path / "t.csv")
    assert [bad.reason for bad in listing.bad] == ["not a plain file"]


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path):
    for split, form in (("train", "NFC"), ("test", "NFD")):
        folder(tmp_path / split, [unicodedata.normalize(form, "café"), "b"], count=1)
    listing, _ = listing_of(tmp_path)
    assert listing.classes == ("b", unicodedata.normalize("NFC", "café"))
    assert listing.check("x") == []


@pytest.mark.parametrize("content", ["", "nothing", "empty classes", "loose images"])
def test_nothing_to_be_found_says_what_was_looked_for(tmp_path, content):
    if content == "empty classes":
        (tmp_path / "a").mkdir()
    if content == "loose images":
        save(tmp_path / "1.png")
    path = tmp_path / "missing" if content == "nothing" else tmp_path
    refused(path, "a folder of class folders; a folder with train/")


def test_unknown_kinds_of_files_are_refused(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK")
    refused(tmp_path / "data.zip", "Unpack an archive first")


ROWS = [("a/0.png", "cat"), ("a/1.png", "dog"), ("b/0.png", "cat"), ("b/1.png", "dog")]


def table(path, rows, columns=("file_name", "label")):
    """A table of `rows` at `path`, in the format that its ending says."""
    folder(path.parent, ["a", "b"], count=2)
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    else:
        between = "\t" if path.suffix == ".tsv" else ","
        lines = [between.join(map(str, row)) for row in (columns, *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "CSV"])
def test_a_table_names_files_beside_it(tmp_path, ending):
    path = table(tmp_path / f"t.{ending}", ROWS)
    expected = {("train", label, name) for name, label in ROWS}
    assert found_in(path)[1] == expected
    splits_given = [
        (*row, split) for row, split in zip(ROWS, ["train", "val", "TEST", "train"], strict=True)
    ]
    path = table(tmp_path / f"s.{ending}", splits_given, ("file_name", "label", "split"))
    assert sorted(split for split, _, _ in found_in(path)[1]) == ["test", "train", "train", "val"]
    path = table(
        tmp_path / f"g.{ending}", [(*row, 7) for row in ROWS], ("file_name", "label", "group")
    )
    assert {entry.group for entry in layouts.find(path).entries} == {"7"}


def test_a_table_alone_in_its_folder_is_found_by_the_folders_name(tmp_path):
    for number in range(4):
        save(tmp_path / f"{number}.png", number)
    (tmp_path / "labels.csv").write_text("file_name,label\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n")
    assert len(found_in(tmp_path)[1]) == 4


def test_numbers_are_labels_by_their_digits(tmp_path):
    path = table(tmp_path / "t.jsonl", [(name, number) for number, (name, _) in enumerate(ROWS)])
    assert listing_of(path)[0].classes == ("0", "1", "2", "3")


def test_all_mistakes_of_a_table_are_said_at_once(tmp_path):
    rows = [*ROWS, ("../x.png", "cat"), ("", "dog"), ("c/0.png", ""), ("a/0.png", "dog")]
    path = table(tmp_path / "inner" / "t.csv", rows)
    for said in (
        "line 6: ../x.png is outside",
        "line 7: no file_name",
        "line 8: no label",
        "line 9: a/0.png is listed twice",
    ):
        refused(path, said)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "", "its first line is empty. Its first line must be file_name,label"),
        ("t.csv", "file_name;label\na;b\n", "not separated by commas"),
        ("t.tsv", "file_name,label\na,b\n", "not separated by tabs"),
        ("t.csv", "f\0i\0l\0e\0", "not text in UTF-8"),
        ("t.csv", "path,label\na,b\n", "no column file_name among path, label"),
        ("t.csv", "file_name,label\na/0.png\n", "line 2: the wrong number of cells"),
        ("t.csv", "file_name,label\na/0.png,b,c\n", "line 2: the wrong number of cells"),
        ("t.csv", 'file_name,label\n"a\n', "line 2"),
        ("t.csv", "file_name,label,split\na/0.png,b,up\n", "split up is not train"),
        ("t.csv", "file_name,label,split\na/0.png,b,\nb/0.png,b,val\n", "1 lines have no split"),
        ("t.jsonl", "{\n[1]\n", "line 1: not JSON; line 2: not a JSON object"),
        ("t.jsonl", '{"file_name": [], "label": 1}\n', "file_name is neither text nor"),
        ("t.jsonl", '{"file_name": "a", "label": 1.5}\n', "label is neither text nor"),
        ("t.jsonl", '{"file_name": "a\\u0000", "label": 1}\n', "a NUL in it"),
        ("t.jsonl", "[" * 100_000, "line 1: not JSON"),
    ],
)
def test_spoilt_tables_are_refused_with_the_line(tmp_path, name, text, said):
    folder(tmp_path, ["a", "b"], count=1)
    (tmp_path / name).write_text(text)
    refused(tmp_path / name, said)


def test_files_that_a_table_names_and_that_are_not_there_are_bad_files(tmp_path):
    path = table(tmp_path / "t.csv", [*ROWS, ("a/gone.png", "cat"), ("a", "dog")])
    listing, _ = listing_of(path)
    assert len(listing.rows) == 4
    assert [(bad.path, bad.reason) for bad in listing.bad] == [
        ("a", "not a plain file"),
        ("a/gone.png", "cannot be read: No such file or directory"),
    ]


NAMES = st.text(min_size=1, max_size=6).filter(lambda name: name.strip(".") and "/" not in name)
CONTENT = st.sampled_from(["png", "jpg", "empty", "text", "truncated", "pipe", "link", "mode 000"])


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.dictionaries(NAMES, st.lists(CONTENT, max_size=4), max_size=5),
    st.lists(st.sampled_from(["train", "val", "valid", "test", "other"]), max_size=3, unique=True),
    st.lists(CONTENT, max_size=2),
    st.booleans(),
)
def test_any_folder_is_a_result_or_an_error_of_the_data(
    tmp_path_factory, classes, parts, loose, skip_bad_files
):
    root = tmp_path_factory.mktemp("any")
    outside, cache = root / "outside.png", root / "cache"
    picture(99).save(outside)
    top = root / "data"
    top.mkdir()
    number = 0
    for part in parts or ["."]:
        for name, contents in [*classes.items(), (".", loose)]:
            try:
                (top / part / name).mkdir(parents=True, exist_ok=True)
            except (OSError, ValueError):  # no name of this file system
                continue
            for content in contents:
                put(top / part / name / f"{number}.{'jpg' if content == 'jpg' else 'png'}", content)
                number += 1
    before = {path for path in root.rglob("*") if cache not in path.parents and path != cache}
    said = ""
    try:
        made = prepared(top, cache, side=8, skip_bad_files=skip_bad_files)
        listing, roles = splits.assign_roles(made.listing)
        assert made.images.shape == (len(made.listing.rows), 8, 8, 3)
        assert problems.problems(listing).lines
        made.listing.check("data")
        assert listing.of_split(roles.final)
    except DataError as error:
        said = str(error)
    assert "\n" not in said
    after = {path for path in root.rglob("*") if cache not in path.parents and path != cache}
    assert after == before


def put(path, content):
    if content in ("png", "jpg"):
        save(path, abs(hash(path.name)) % 1000)
    elif content == "truncated":
        save(path)
        path.write_bytes(path.read_bytes()[:700])
    elif content == "pipe":
        os.mkfifo(path)
    elif content == "link":
        path.symlink_to(path.parents[len(path.parents) - 2])
    else:
        path.write_text("" if content == "empty" else "no image")
        path.chmod(0 if content == "mode 000" else 0o644)


def test_three_hundred_classes(tmp_path):
    for number in range(300):
        save(tmp_path / "data" / f"class {number}" / "0.png", number, height=4, width=4)
        save(tmp_path / "data" / f"class {number}" / "1.png", 1000 + number, height=4, width=4)
    made = prepared(tmp_path / "data", tmp_path / "cache", side=8)
    listing, _ = splits.assign_roles(made.listing)
    assert len(listing.classes) == 300
    assert len(listing.of_split("val")) >= 300
    assert listing.labels("train").max() == 299


def arrays(path, *, splits_given=("train", "val", "test"), shape=(6, 28, 28), **changes):
    random = np.random.default_rng(0)
    made = {}
    for split in splits_given:
        made[f"{split}_images"] = random.integers(0, 256, shape, dtype=np.uint8)
        made[f"{split}_labels"] = np.arange(shape[0], dtype=np.uint8).reshape(-1, 1) % 2
    made.update(changes)
    np.savez_compressed(path, **{name: array for name, array in made.items() if array is not None})
    return made


@pytest.mark.parametrize("shape", [(6, 28, 28), (6, 28, 28, 3), (6, 28, 28, 1), (100, 30, 20, 3)])
def test_medmnist_arrays_come_out_as_they_are(tmp_path, shape, monkeypatch):
    monkeypatch.setattr("fasttrain.data.arrays.BLOCK_BYTES", 3 * shape[1] * shape[2] * 3)
    monkeypatch.setattr("fasttrain.data.arrays.BLOCKS", 2)
    made = arrays(tmp_path / "m.npz", shape=shape)
    side = shape[1]
    found = prepared(tmp_path / "m.npz", tmp_path / "cache", side=side)
    for split in ("train", "val", "test"):
        images, labels = found.split(split)
        expected = made[f"{split}_images"].reshape(*shape[:3], -1)
        if shape[1] == shape[2]:
            assert (images == np.broadcast_to(expected, (*shape[:3], 3))).all()
        assert len(images) == shape[0]
        assert labels.tolist() == made[f"{split}_labels"].ravel().tolist()


def test_labels_may_be_names_and_splits_may_be_missing(tmp_path):
    names = np.array(["dog", "cat"] * 3)
    arrays(
        tmp_path / "m.npz", splits_given=("train", "test"), train_labels=names, test_labels=names
    )
    listing, _ = listing_of(tmp_path / "m.npz")
    assert listing.classes == ("cat", "dog")
    assert listing.splits == ("train", "test")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_images": None}, "not train_images and train_labels"),
        ({"val_labels": None}, "holds val_images and no val_labels"),
        ({"train_images": np.zeros((6, 28, 28))}, "float64"),
        ({"train_images": np.zeros((6, 28), np.uint8)}, "not uint8 (N, H, W)"),
        ({"train_images": np.zeros((6, 3, 28, 28), np.uint8)}, "not uint8 (N, H, W)"),
        ({"train_images": np.zeros((6, 0, 28), np.uint8)}, "without pixels"),
        ({"train_labels": np.zeros(5, np.uint8)}, "is (5,) for 6 images"),
        ({"train_labels": np.zeros((6, 3), np.uint8)}, "is (6, 3) for 6 images"),
        ({"train_labels": np.zeros(6)}, "neither whole numbers nor names"),
        ({"train_labels": np.array([{}] * 6)}, "allow_pickle"),
        ({"train_images": np.zeros((6, 4, 4), np.uint8, order="F")}, "Fortran"),
    ],
)
def test_unfit_arrays_are_refused(tmp_path, changes, said):
    arrays(tmp_path / "m.npz", **changes)
    refused(tmp_path / "m.npz", said)


def test_damaged_array_files_are_refused_or_their_images_are_bad(tmp_path):
    arrays(tmp_path / "m.npz", shape=(50, 28, 28))
    data = (tmp_path / "m.npz").read_bytes()
    random = np.random.default_rng(0)
    failed, said = 0, ""
    for number in range(60):
        damaged = bytearray(data)
        damaged = damaged[: random.integers(len(data))] if number % 3 == 0 else damaged
        for _ in range(3 if damaged else 0):
            damaged[random.integers(len(damaged))] ^= 1 << random.integers(8)
        (tmp_path / "d.npz").write_bytes(damaged)
        try:
            failed += bool(listing_of(tmp_path / "d.npz")[0].bad)
        except DataError as error:
            failed, said = failed + 1, said + str(error)
    assert failed > 40
    assert "\n" not in said


def parquet(path, names, *, labels=(0, 1), column="image", label="label", huggingface=True, **more):
    """A Parquet file as Hugging Face publishes image sets."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = []
    for number in range(6):
        file = io.BytesIO()
        picture(number + len(path.name) * 10, height=8, width=8).save(file, "PNG")
        cells.append({"bytes": file.getvalue(), "path": None})
    columns = {column: cells, label: [labels[number % 2] for number in range(6)], **more}
    table = pa.table(columns)
    features = {label: {"names": list(names), "_type": "ClassLabel"}}
    if huggingface:
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)


@pytest.mark.parametrize("where", ["", "data"])
def test_parquet_files_with_names_of_labels_and_splits_by_file_name(tmp_path, where):
    for split in ("train", "validation", "test"):
        name = f"{split}-00000-of-00001.parquet"
        parquet(tmp_path / "set" / where / name, ["zebra", "ant"])
    made = prepared(tmp_path / "set", tmp_path / "cache", side=8)
    assert made.listing.classes == ("ant", "zebra")
    assert made.listing.splits == ("train", "val", "test")
    assert made.listing.labels("val").tolist() == [1, 0] * 3
    for row, image in zip(made.listing.rows, made.images, strict=True):
        number = int(row.path.rpartition("/")[2])
        name = row.path.split("/")[-2]
        assert (image == np.asarray(picture(number + len(name) * 10, height=8, width=8))).all()


def test_one_parquet_file_with_columns_of_its_own(tmp_path):
    split = ["train", "train", "test", "test", "train", "train"]
    parquet(tmp_path / "x.parquet", [], labels=("b", "a"), huggingface=False, split=split)
    listing, _ = listing_of(tmp_path / "x.parquet")
    assert listing.classes == ("a", "b")
    assert [row.split for row in listing.rows] == ["train"] * 4 + ["test"] * 2


def test_unfit_parquet_files_are_refused(tmp_path):
    parquet(tmp_path / "x.parquet", [], column="picture", huggingface=False)
    refused(tmp_path / "x.parquet", "no column image among picture, label")
    (tmp_path / "y.parquet").write_bytes(b"PAR1 and nothing")
    refused(tmp_path / "y.parquet", "Parquet")
    parquet(tmp_path / "z.parquet", [], huggingface=False, split=["up"] * 6)
    refused(tmp_path / "z.parquet", "split up")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    import sys

    from fasttrain.errors import EnvironmentProblem

    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EnvironmentProblem, match="pip install pyarrow") as caught:
        layouts.find(tmp_path / "x.parquet")
    assert caught.value.code == 3
