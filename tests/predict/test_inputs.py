"""What a person names becomes images: the rules are training's, and what is wrong is an item."""

import io
import os

import numpy as np
import pytest
from made_images import folder, picture, save

from fasttrain.data import content
from fasttrain.predict.inputs import Item, of_path, of_paths

CLASSES = ("ant", "bee", "été")


def named(*paths, stdin=b""):
    """(path from the working directory, label or error) of each item."""
    found = of_paths([str(path) for path in paths], CLASSES, io.BytesIO(stdin))
    return [(item.path, item.error or item.label) for item in found]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_folder_is_all_its_images_by_name_with_its_class_folders_as_labels(tmp_path):
    for name in ("d/ant/2.png", "d/ant/10.JPG", "d/ant/deep/er/3.webp", "d/bee/1.png", "d/x.png"):
        save(tmp_path / name)
    save(tmp_path / "d/wasp/1.png")
    save(tmp_path / "d/e\u0301te\u0301/1.png")  # decomposed, as macOS writes it
    for junk in (".hidden.png", "__MACOSX/1.png", "ant/._1.png"):
        save(tmp_path / "d" / junk)
    (tmp_path / "d" / "ant" / "notes.txt").write_text("x")
    assert named("d") == [
        ("d/x.png", None),
        ("d/ant/10.JPG", "ant"),
        ("d/ant/2.png", "ant"),
        ("d/ant/deep/er/3.webp", "ant"),
        ("d/bee/1.png", "bee"),
        ("d/e\u0301te\u0301/1.png", "été"),
        ("d/wasp/1.png", None),
    ]
    assert named("d/ant")[0] == ("d/ant/10.JPG", None)  # its own folder says nothing


def test_the_folders_of_splits_are_gone_through(tmp_path):
    folder(tmp_path / "d" / "test", ["ant", "bee"], count=1)
    folder(tmp_path / "d" / "Valid", ["bee"], count=1)
    assert named("d") == [
        ("d/Valid/bee/0.png", "bee"),
        ("d/test/ant/0.png", "ant"),
        ("d/test/bee/0.png", "bee"),
    ]


def test_a_class_may_be_called_as_a_split_is(tmp_path):
    folder(tmp_path / "d", ["train", "test"], count=1)
    found = [item.label for item in of_path("d", ("bus", "train"))]
    assert found == [None, "train"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    save(tmp_path / "outside" / "1.png")
    save(tmp_path / "d" / "2.png")
    (tmp_path / "d" / "a.png").symlink_to(tmp_path / "outside" / "1.png")
    (tmp_path / "d" / "b").symlink_to(tmp_path / "outside")
    (tmp_path / "d" / "c.png").symlink_to(tmp_path / "d" / "2.png")
    assert named("d") == [("d/2.png", None), ("d/c.png", None)]


def test_a_folder_without_images_says_so(tmp_path):
    (tmp_path / "d").mkdir()
    assert named("d") == [("d", "no images in it")]
    (tmp_path / "d" / "a.txt").write_text("x")
    assert named("d") == [("d", "no images in it (1 files that are not images: .txt 1)")]


def test_a_table_names_files_from_its_folder_and_their_labels(tmp_path):
    save(tmp_path / "t" / "a" / "1.png")
    far = save(tmp_path / "far.png")
    rows = f"file_name,label,more\na/1.png,ant,x\n{far},wasp,\nnosuch.png,,\n"
    (tmp_path / "t" / "t.csv").write_text(rows)
    assert named("t/t.csv") == [
        ("t/a/1.png", "ant"),
        (str(far), "wasp"),
        ("t/nosuch.png", None),
    ]
    (tmp_path / "t" / "t.jsonl").write_text('{"file_name": "a/1.png"}\nno json\n{"x": 1}\n')
    assert named("t/t.jsonl") == [
        ("t/a/1.png", None),
        ("t/t.jsonl", "line 2: not JSON"),
        ("t/t.jsonl", "line 3: no file_name"),
    ]
    (tmp_path / "t.tsv").write_text("name\tlabel\n")
    ((path, error),) = named("t.tsv")
    assert path == "t.tsv"
    assert error.startswith("table (t.tsv): no column file_name among name, label. Its first line")


def test_an_array_file_is_its_rows(tmp_path):
    images = np.stack([np.asarray(picture(n)) for n in range(11)])
    labels = np.array(["ant"] * 10 + ["bee"])
    np.savez("a.npz", test_images=images, test_labels=labels, plain=images[:1, ..., 0], x=labels)
    found = list(of_path("a.npz", CLASSES))
    assert [item.path for item in found[:2]] == ["a.npz/test/00", "a.npz/test/01"]
    assert [item.label for item in found] == ["ant"] * 10 + ["bee", None]
    assert found[-1].path == "a.npz/plain/0"
    for number, item in enumerate(found[:-1]):
        with content.opened(item.content) as image:
            np.testing.assert_array_equal(np.asarray(image), images[number])
    np.savez("b.npz", x=labels)
    np.save("c.npy", images)
    os.rename("c.npy", "c.npz")
    (tmp_path / "d.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:500])
    for name, why in (("b", "holds x, no uint8"), ("c", "no .npz file"), ("d", "no .npz file")):
        ((path, error),) = named(f"{name}.npz")
        assert path == f"{name}.npz"
        assert why in error


def test_a_pattern_is_the_images_that_it_matches_unless_a_file_is_called_so(tmp_path):
    for name in ("p/1.png", "p/q/2.png", "p/[1].png"):
        save(tmp_path / name)
    (tmp_path / "p" / "3.txt").write_text("x")
    assert [path for path, _ in named("p/*")] == ["p/1.png", "p/[1].png"]
    assert [path for path, _ in named("p/**/*.png")] == ["p/1.png", "p/[1].png", "p/q/2.png"]
    assert [path for path, _ in named("p/[1].png")] == ["p/[1].png"]
    ((path, error),) = named("p/*.gif")
    assert path == "p/*.gif"
    assert "matches no image" in error


def test_a_dash_is_a_list_of_paths(tmp_path):
    save(tmp_path / "d" / "ant" / "1.png")
    odd = os.fsdecode(b"\xff.png")
    assert named("x.png", "-", "y.png", stdin=b"a b.png\r\n\nd\n\xff.png") == [
        ("x.png", None),
        ("a b.png", None),
        ("d/ant/1.png", "ant"),
        (odd, None),
        ("y.png", None),
    ]


def test_a_list_is_read_no_further_than_it_is_asked_for():
    given = (name for name in [b"a.png\n", b"b.png\n"])
    found = of_paths(["-"], CLASSES, given)
    assert next(found) == Item("a.png", content.of_file("a.png"))
    assert next(given) == b"b.png\n"
