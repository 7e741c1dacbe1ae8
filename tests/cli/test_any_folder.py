"""Whatever a folder holds: exit 0 or 4 in one line, and nothing written but its run and cache."""

import getpass
import json
import os
import shutil
import socket
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from made_images import folder, save

from fasttrain.cli import main as cli
from fasttrain.data import found

WORDS = "--side 32 --epochs 1 --batch-size 1 --lr 0.05 --device cpu --amp off --loader resident"
TORCHS = f"torchinductor_{getpass.getuser()}"  # torch makes it when it is first asked to optimise
LINUX = sys.platform == "linux"


class Writes:
    """An audit hook, which Python cannot take away again: it records only within `recording`."""

    CHANGES = ("os.mkdir", "os.symlink", "os.link", "os.rename", "os.remove", "os.rmdir")
    CHANGES += ("os.chmod", "os.chown", "os.truncate", "os.utime")

    def __init__(self):
        self.seen = None
        sys.addaudithook(self._hook)

    @contextmanager
    def recording(self):
        self.seen = seen = []
        try:
            yield seen
        finally:
            self.seen = None

    def _hook(self, event, args):
        if self.seen is None:
            return
        flags = args[2] if event == "open" and isinstance(args[2], int) else 0
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or event in self.CHANGES:
            paths = args[:1] if event == "open" else args[:2]  # a rename has two
            handle = args[-1] if event in ("os.remove", "os.rmdir") else -1  # of rmtree's folder
            if handle >= 0 and not LINUX:
                return
            base = os.readlink(f"/proc/self/fd/{handle}") if handle >= 0 else os.getcwd()
            named = (str, bytes, os.PathLike)
            names = [os.fsdecode(path) for path in paths if isinstance(path, named)]
            self.seen += [os.path.abspath(os.path.join(base, name)) for name in names]


@pytest.fixture(scope="module")
def writes():
    return Writes()


@pytest.fixture(autouse=True)
def _alone(tiny, tmp_path, monkeypatch):
    """Tiny networks; the cache, home and temporary folder of the test's own."""
    for name in ("cache", "home", "temporary", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")


@contextmanager
def unreadable():
    """What is named `refused` cannot be opened, nor what is named `shut` listed: also by root."""
    scandir = os.scandir

    def refusing(path, *args, **options):
        if "refused" in str(path):
            raise PermissionError(13, "Permission denied", path)
        return open(path, *args, **options)

    def shut(path="."):
        if not isinstance(path, int) and os.path.basename(path) == "shut":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(found, "open", refusing, raising=False)
        patches.setattr(os, "scandir", shut)
        yield


ODD = ["a", "b", "A", "Ünï", "日本", "a b", ".hid", "__MACOSX", "train", "Valid", "test", "x.png"]
ODD += ["-v", "e\u0301", "\u00e9", "😀", "shut", "<b>&", "a,b;'c", "$x$", "con", " ", "n" * 200]
ODD += ["two\nlines", "\u202eltr", os.fsdecode(b"caf\xe9"), "\x1b[31m"] if LINUX else []
SPLITS = ("train", "Valid", "test")
KINDS = ["good", "good", "good", "jpg", "empty", "text", "torn", "refused", "folder", "below"]
KINDS += ["link", "inner link", "broken link", "loop", "pipe", "socket", "copy"]
CLASS = st.one_of(st.sampled_from(["link", "loop"]), st.lists(st.sampled_from(KINDS), max_size=6))
TREE = st.dictionaries(st.sampled_from(ODD), CLASS, max_size=5)
LOOSE = ["loose.png", "loose.PNG", "notes.txt", "t.csv", "link.png"]
LOOSE = st.lists(st.sampled_from(LOOSE), max_size=2, unique=True)


def write(root, tree, loose):
    """Write the classes of `tree`, a list of kinds of files or a kind of link for each."""
    root.mkdir()
    outside = root.parent / "outside"
    folder(outside, ["dog"], count=2)
    number = 0
    for name, kinds in tree.items():
        place = root / name
        if isinstance(kinds, str):
            place.symlink_to(outside if kinds == "link" else root)
            continue
        with suppress(FileExistsError):  # where names differ by nothing that the system keeps
            place.mkdir()
        for kind in kinds:
            number += 1
            make(place / f"{number} {kind}.{'JPG' if kind == 'jpg' else 'png'}", kind, number)
    for name in loose:
        if name == "link.png":
            (root / name).symlink_to(outside / "dog" / "0.png")
        elif name.lower().endswith("png"):
            save(root / name, 999)
        else:
            (root / name).write_text("file_name,label\nx.png,a\n")


def make(path, kind, number):
    links = {"link": "../../outside/dog/0.png", "broken link": "nowhere.png", "loop": path.name}
    links["inner link"] = next((p.name for p in path.parent.iterdir() if p.is_file()), "nowhere")
    if kind in links:
        path.symlink_to(links[kind])
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path may have 108 bytes
        with suppress(OSError), socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)
    elif kind in ("empty", "text"):
        path.write_text("" if kind == "empty" else "no image")
    else:
        path = path.parent / "deep" / "er" / path.name if kind == "below" else path
        save(path, 1 if kind == "copy" else number)
        if kind == "torn":
            path.write_bytes(path.read_bytes()[:-200])


def everything(root, *, but=()):
    """What is below a folder: content and time of each file, where each link leads."""
    return {
        path: os.readlink(path)
        if path.is_symlink()
        else (path.stat().st_mtime_ns, path.read_bytes())
        if path.is_file()
        else ""
        for path in root.rglob("*")
        if not any(path.is_relative_to(one) for one in but)
    }


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tree=TREE, loose=LOOSE, skip=st.booleans())
@example(tree={}, loose=[], skip=False)
@example(tree={"a": ["good"]}, loose=[], skip=False)
@example(tree={"a": ["good"], "b": ["good"], "c": []}, loose=["loose.png"], skip=False)
@example(tree={"a": ["good"] * 3, "b": ["good"] * 3, "shut": ["good"]}, loose=[], skip=True)
@example(tree={"a": ["good"] * 3, "b": ["good", "refused", "good"]}, loose=[], skip=True)
@example(tree={n: ["good"] * 2 for n in ODD if n not in SPLITS}, loose=[], skip=False)
@example(tree={n: ["good"] * 2 for n in ODD if n not in SPLITS}, loose=[], skip=True)
def test_any_folder_is_exit_0_or_4_and_nothing_is_written_elsewhere(
    tree, loose, skip, tmp_path, writes, capsys
):
    work, cache = tmp_path / "here", tmp_path / "cache"
    for place in (work, cache):
        shutil.rmtree(place)
        place.mkdir()
    os.chdir(work)
    write(work / "d", tree, loose)
    before = everything(tmp_path, but=[cache])
    words = ["--dataset", "d", *["--skip-bad-files"] * skip]
    capsys.readouterr()
    with unreadable(), writes.recording() as seen:
        code = cli.main([*words, "--out", "run", *WORDS.split()])
        err = capsys.readouterr().err
        assert cli.main(["data", *words, "--side", "32"]) == code
    assert code in (0, 4)
    assert err.count("\n") == (code == 4)
    assert (code == 0) == (work / "run" / "summary.json").exists() == (work / "run").exists()
    ours = (work / "run", cache, os.devnull, Path(tempfile.gettempdir()) / TORCHS)
    assert [p for p in seen if not any(Path(p).is_relative_to(one) for one in ours)] == []
    assert everything(tmp_path, but=[cache, work / "run"]) == before


def test_the_watch_sees_a_write_anywhere(writes, tmp_path):
    with writes.recording() as seen:
        (tmp_path / "home" / "a").write_text("a")
        (tmp_path / "home" / "a").rename(tmp_path / "home" / "b")
        os.mkdir(tmp_path / "home" / "c")
        (tmp_path / "home" / "b").read_text()
    a, b, c = (str(tmp_path / "home" / name) for name in "abc")
    assert seen == [a, a, b, c]


def test_three_hundred_classes_train_and_are_named(tmp_path):
    names = [f"class {number:03}" for number in range(300)]
    folder(tmp_path / "d", names, count=2, height=4, width=4)
    words = ["--dataset", str(tmp_path / "d"), "--out", "run", *WORDS.split()]
    assert cli.main([*words, "--batch-size", "8"]) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["data"]["classes"] == names
    assert summary["images"] == {"train": 300, "val": 300}
