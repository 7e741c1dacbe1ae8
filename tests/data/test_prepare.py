"""Prepared pixels: the same whatever happened on the way, verified, made once, within memory."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from made_images import folder, listing_of, picture, prepared, save
from PIL import Image

from fasttrain.data import crew, files, making, pictures, pixels, prepare, reading, sums
from fasttrain.errors import DataError, OutputError
from tests.data.test_pictures import bomb


@pytest.fixture
def data(tmp_path):
    """60 PNGs of three classes in train and test."""
    folder(tmp_path / "data" / "train", ["a", "b", "c"], count=15)
    folder(tmp_path / "data" / "test", ["a", "b", "c"], count=5, start=9000)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(pixels, "MOST_ROWS", 8)


def reference(listing, root, side):
    """One image after another, by Pillow alone."""
    made = [Image.open(root / row.path).convert("RGB") for row in listing.rows]
    return np.stack(
        [np.asarray(one.resize((side, side), Image.Resampling.BILINEAR)) for one in made]
    )


def test_the_array_is_what_pillow_makes_of_each_image_in_the_listings_order(data, tmp_path):
    made = prepared(data, tmp_path / "cache", side=12)
    expected = reference(made.listing, data, 12)
    assert (made.images == expected).all()
    assert not made.images.flags.writeable
    images, labels = made.split("test")
    assert (images == expected[45:]).all()
    assert labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert np.shares_memory(images, made.images)
    # The control: one pixel of another picture is seen.
    save(data / "train" / "a" / "0.png", 77_777)
    assert (prepared(data, tmp_path / "cache", side=12).images != expected).any()


@pytest.mark.parametrize("threads", [1, 7])
def test_threads_do_not_show(data, tmp_path, threads):
    made = prepared(data, tmp_path / str(threads), threads=threads)
    assert (made.images == reference(made.listing, data, 16)).all()


def test_mean_and_deviation_are_those_of_the_training_pixels(data, tmp_path):
    made = prepared(data, tmp_path / "cache")
    train = made.split("train").images / 255.0
    assert made.mean == pytest.approx(train.mean((0, 1, 2)), abs=1e-12)
    assert made.std == pytest.approx(train.std((0, 1, 2)), abs=1e-12)
    assert (made.mean, made.std) == sums.split_mean_std(made.split("train").images)
    whole = made.images / 255.0  # the control: the test images count for nothing
    assert made.mean != pytest.approx(whole.mean((0, 1, 2)), abs=1e-6)
    flat = np.full((5, 4, 4, 3), 51, np.uint8)
    assert sums.split_mean_std(flat) == ((0.2,) * 3, (1 / 255,) * 3)


def test_a_second_start_opens_it_without_reading_or_decoding(data, tmp_path, monkeypatch):
    for path in data.rglob("*.png"):
        os.utime(path, (1, 1))
    time.sleep(1.1)  # younger files are read again
    first, said = prepared(data, tmp_path / "cache"), []
    monkeypatch.setattr(pictures, "opened", lambda file: pytest.fail("was opened"))
    monkeypatch.setattr(reading, "sha256_of", lambda file: pytest.fail("was read"))
    again = prepared(data, tmp_path / "cache", log=said.append)
    assert (again.images == first.images).all()
    assert (again.mean, again.std, again.listing) == (first.mean, first.std, first.listing)
    assert again.verified
    assert said == []


@pytest.mark.parametrize("change", ["content", "new", "gone", "side", "fit", "split"])
def test_whatever_changes_the_pixels_changes_the_array(data, tmp_path, change):
    first = prepared(data, tmp_path / "cache")
    options = {}
    if change == "content":
        size = (data / "train/a/0.png").stat().st_size
        save(data / "train/a/0.png", 5555)
        assert (data / "train/a/0.png").stat().st_size == pytest.approx(size, abs=50)
    elif change == "new":
        save(data / "train/a/99.png", 5555)
    elif change == "gone":
        (data / "train/a/0.png").unlink()
    elif change == "split":
        (data / "train/a/0.png").rename(data / "test/a/99.png")
    else:
        options = {"side": {"side": 20}, "fit": {"fit": "pad"}}[change]
    second = prepared(data, tmp_path / "cache", **options)
    assert second.folder != first.folder
    side = options.get("side", 16)
    assert (second.images == reference(second.listing, data, side)).all()


def test_other_names_for_the_same_files_need_no_other_array(data, tmp_path):
    first = prepared(data, tmp_path / "cache")
    for path in sorted((data / "train").iterdir()):
        path.rename(path.with_name(f"{path.name}x"))
    for path in sorted((data / "test").iterdir()):
        path.rename(path.with_name(f"{path.name}x"))
    second = prepared(data, tmp_path / "cache")
    assert second.folder == first.folder
    assert second.listing.classes == ("ax", "bx", "cx")


@pytest.mark.parametrize(
    "damage", ["a bit", "cut off", "longer", "gone", "no manifest", "manifest"]
)
def test_a_damaged_array_is_made_anew(data, tmp_path, damage):
    first = prepared(data, tmp_path / "cache")
    expected, array = np.array(first.images), first.folder / pixels.PIXELS
    content = bytearray(array.read_bytes())
    if damage == "a bit":
        content[1234] ^= 1
        array.write_bytes(content)
    elif damage == "gone":
        array.unlink()
    elif damage in ("no manifest", "manifest"):
        (first.folder / pixels.DONE).write_text('{"blocks": [{"images": -1}]}')
        if damage == "no manifest":
            (first.folder / pixels.DONE).unlink()
    else:
        array.write_bytes(content[:-1] if damage == "cut off" else content + b"x")
    assert (prepared(data, tmp_path / "cache").images == expected).all()


def test_a_large_array_is_verified_when_the_caller_asks(data, tmp_path, monkeypatch):
    first = prepared(data, tmp_path / "cache")
    monkeypatch.setattr(making, "AT_ONCE", 10)
    again = prepared(data, tmp_path / "cache")
    assert not again.verified
    again.verify()
    with open(first.folder / pixels.PIXELS, "r+b") as file:
        file.seek(5000)
        file.write(b"xx")
    with pytest.raises(DataError, match="damaged since they were made"):
        again.verify()
    assert (prepared(data, tmp_path / "cache").images == reference(again.listing, data, 16)).all()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [0, 1, 8, 9, 30, 59])
def test_a_broken_off_preparation_goes_on_where_it_was(data, tmp_path, monkeypatch, after):
    listing, source = listing_of(data)
    decoded = []

    def counted(image, side, *, fit):
        decoded.append(1)
        if len(decoded) > after and not tmp_path.joinpath("again").exists():
            raise Killed
        return real(image, side, fit=fit)

    real = pictures.small
    monkeypatch.setattr(pictures, "small", counted)
    options = {"side": 16, "folder": tmp_path / "cache", "threads": 1}
    with pytest.raises(Killed):
        prepare.prepare(listing, source, **options)
    (tmp_path / "again").touch()
    decoded.clear()
    made = prepare.prepare(listing, source, **options)
    assert (made.images == reference(listing, data, 16)).all()
    assert made.mean == sums.split_mean_std(made.split("train").images)[0]
    # A block that the disk was just at, and the one after it, may have to be made again.
    assert len(decoded) <= 60 - 8 * max(0, after // 8 - 2)


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from fasttrain.data import pictures, pixels
from made_images import prepared
pixels.MOST_ROWS = 8
real = pictures.small
def slow(image, side, *, fit):
    time.sleep(0.01)
    return real(image, side, fit=fit)
pictures.small = slow
prepared(Path(sys.argv[1]), Path(sys.argv[2]), threads=1)
print("done")
"""


def start(data, cache):
    command = [sys.executable, "-c", KILLED, str(data), str(cache), str(Path(__file__).parents[1])]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def test_a_killed_preparation_is_gone_on_with_and_gives_the_same_array(data, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    with start(data, cache) as process:
        while not (list(cache.glob("*/" + pixels.BLOCKS)) and _blocks(cache) >= 2):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert _blocks(cache) < 8
    with open(next(cache.glob("*/" + pixels.BLOCKS)), "ab") as file:
        file.write(b'{"images": 8, "ro')  # a torn line
    with open(next(cache.glob("*/" + pixels.PIXELS)), "ab") as file:
        file.write(b"torn")
    decoded = []
    real = pictures.small
    monkeypatch.setattr(pictures, "small", lambda *a, **o: decoded.append(1) or real(*a, **o))
    made = prepared(data, cache)
    assert len(decoded) <= 60 - 16
    assert (made.images == reference(made.listing, data, 16)).all()


def _blocks(cache):
    return next(cache.glob("*/" + pixels.BLOCKS)).read_bytes().count(b"\n")


def test_a_spoilt_beginning_is_not_gone_on_with(data, tmp_path):
    with start(data, tmp_path / "cache") as process:
        while not (
            list((tmp_path / "cache").glob("*/" + pixels.BLOCKS))
            and _blocks(tmp_path / "cache") >= 2
        ):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    with open(next((tmp_path / "cache").glob("*/" + pixels.PIXELS)), "r+b") as file:
        file.write(b"spoilt")
    made = prepared(data, tmp_path / "cache")
    assert (made.images == reference(made.listing, data, 16)).all()


def test_of_concurrent_starts_one_prepares(data, tmp_path, monkeypatch):
    decoded, made, said = [], [], []
    real = pictures.small

    def counted(*args, **options):
        decoded.append(1)
        time.sleep(0.02)
        return real(*args, **options)

    monkeypatch.setattr(pictures, "small", counted)
    listing, source = listing_of(data)

    def one():
        made.append(
            prepare.prepare(
                listing, source, side=16, folder=tmp_path / "cache", log=said.append, threads=2
            )
        )

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 60
    assert len(made) == 4
    assert said.count("waiting for another process that is preparing these images") == 3
    for one_of in made:
        assert (one_of.images == reference(listing, data, 16)).all()


def spoil(data):
    """Every kind of file that cannot be used: name -> what its reason says."""
    save(data / "train/a/cut.png", 5, height=40, width=40)
    whole = (data / "train/a/cut.png").read_bytes()
    (data / "train/a/cut.png").write_bytes(whole[: len(whole) // 2])
    (data / "train/a/empty.png").write_bytes(b"")
    (data / "train/b/text.jpg").write_text("no image")
    (data / "test/c").mkdir(exist_ok=True)
    (data / "test/c/bomb.png").write_bytes(bomb(20_000, 20_000).getvalue())
    return {
        "train/a/cut.png": "truncated",
        "train/a/empty.png": "empty",
        "train/b/text.jpg": "not an image",
        "test/c/bomb.png": "more than 100 megapixels",
    }


def test_every_bad_file_is_named_at_once_with_its_reason(data, tmp_path):
    expected = spoil(data)
    for _ in range(2):  # also when it is known already
        with pytest.raises(DataError) as caught:
            prepared(data, tmp_path / "cache")
        said = str(caught.value)
        for name, reason in expected.items():
            assert name in said
            assert reason in said[said.index(name) :]
        assert "--skip-bad-files" in said
        assert "\n" not in said


def test_bad_files_are_left_out_and_recorded_if_asked(data, tmp_path, monkeypatch):
    clean = prepared(data, tmp_path / "clean")
    expected = spoil(data)
    made = prepared(data, tmp_path / "cache", skip_bad_files=True)
    assert {bad.path: bad.reason for bad in made.listing.bad}.keys() == expected.keys()
    assert all(expected[bad.path] in bad.reason for bad in made.listing.bad)
    assert (made.images == clean.images).all()
    assert (made.mean, made.std) == (clean.mean, clean.std)
    monkeypatch.setattr(pictures, "small", lambda *a, **o: pytest.fail("was decoded"))
    again = prepared(data, tmp_path / "cache", skip_bad_files=True)
    assert again.listing == made.listing
    for name in expected:  # who takes them out need not prepare again either
        (data / name).unlink()
    mended = prepared(data, tmp_path / "cache")
    assert mended.listing.rows == made.listing.rows
    assert (mended.images == clean.images).all()


def test_nobodys_file_is_changed_and_nothing_is_written_beside_them(data, tmp_path):
    spoil(data)

    def state():
        return {
            path: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in data.rglob("*")
            if path.is_file()
        }

    before = state()
    prepared(data, tmp_path / "cache", skip_bad_files=True)
    assert state() == before
    assert {path.name for path in tmp_path.iterdir()} == {"data", "cache"}


def test_only_bad_files_are_refused_even_if_they_may_be_skipped(tmp_path):
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        save(tmp_path / "data" / name / "1.png")
        content = (tmp_path / "data" / name / "1.png").read_bytes()[:600]
        (tmp_path / "data" / name / "1.png").write_bytes(content + name.encode())
    for _ in range(2):
        with pytest.raises(DataError, match="2 files"):
            prepared(tmp_path / "data", tmp_path / "cache", skip_bad_files=True)


def test_a_file_that_changes_while_it_is_prepared_is_said(data, tmp_path):
    listing, source = listing_of(data)
    save(data / "train/b/3.png", 4321)
    options = {"side": 16, "folder": tmp_path / "cache"}
    with pytest.raises(DataError, match=r"train/b/3\.png: changed while") as caught:
        prepare.prepare(listing, source, **options)
    assert caught.value.code == 4
    (data / "train/b/3.png").unlink()
    with pytest.raises(DataError, match=r"train/b/3\.png: changed while"):
        prepare.prepare(listing, source, **options, skip_bad_files=True)


def test_the_disk_is_checked_before_anything_is_decoded(data, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    monkeypatch.setattr(pictures, "small", lambda *a, **o: pytest.fail("was decoded"))
    with pytest.raises(OutputError, match=r"46,080 bytes needed, 1,000,000 free") as caught:
        prepared(data, tmp_path / "cache")
    assert caught.value.code == 6


def test_the_size_is_said_and_progress_reaches_its_end(data, tmp_path):
    said, shown = [], []
    prepared(data, tmp_path / "cache", log=said.append, progress=lambda *at: shown.append(at))
    assert said[0].startswith("preparing 60 images of 16 x 16: 0 MB in ")
    assert shown[-1] == (60, 60)
    assert shown == sorted(shown)


def test_the_automatic_side_goes_by_the_training_images(tmp_path):
    folder(tmp_path / "d" / "train", ["a", "b"], count=3, height=70, width=300)
    folder(tmp_path / "d" / "test", ["a", "b"], count=20, height=300, width=300, start=50)
    listing, source = listing_of(tmp_path / "d")
    made = prepare.prepare(listing, source, side=None, folder=tmp_path / "cache")
    assert made.side == 64
    assert made.images.shape == (46, 64, 64, 3)


MEMORY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from fasttrain.data import decoding
from made_images import prepared
decoding.IN_FLIGHT = int(sys.argv[4])
def peak():
    status = Path("/proc/self/status").read_text()  # rusage would begin with the parent's
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024
before = peak()
made = prepared(Path(sys.argv[1]), Path(sys.argv[2]), side=128, threads=16)
made.verify()
print(len(made.images), peak() - before)
"""


@pytest.mark.parametrize(("in_flight", "low", "high"), [(8_000_000, 30, 200), (10**12, 250, 9999)])
def test_memory_is_bounded_whatever_the_number_of_images_and_of_threads(
    tmp_path, in_flight, low, high
):
    """Megabytes for 24 images of 4 megapixels by 16 threads; the control lets all decode at once.

    A pixel takes 4 bytes, in three copies at most.
    """
    for number in range(24):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2500, 1600), (number, 0, 0)).save(path, compress_level=1)
    paths = tmp_path / "data", tmp_path / "cache", Path(__file__).parents[1]
    command = [sys.executable, "-c", MEMORY, *map(str, paths), str(in_flight)]
    count, megabytes = map(int, subprocess.check_output(command, text=True).split())
    assert count == 24
    assert low < megabytes < high


def test_a_budget_lets_a_giant_work_alone():
    budget, most, used = crew.Budget(10), [0], [0]
    lock = threading.Lock()

    def work(size):
        with budget.taking(size):
            with lock:
                used[0] += min(size, 10)
                most[0] = max(most[0], used[0])
            time.sleep(0.002)
            with lock:
                used[0] -= min(size, 10)
        return size

    sizes = [3, 1000, 4, 2, 9, 1, 50] * 4
    assert list(crew.in_order(work, sizes, threads=6)) == sizes
    assert most[0] <= 10
    assert most[0] > 3


def test_work_ahead_is_bounded_and_errors_come_out(tmp_path):
    begun = []
    results = crew.in_order(lambda n: begun.append(n) or n, range(100_000), threads=2)
    assert next(results) == 0
    time.sleep(0.1)
    assert len(begun) <= (2 * crew.AHEAD + 1) * crew.TOGETHER
    results.close()
    with pytest.raises(ZeroDivisionError):
        list(crew.in_order(lambda n: 1 // n, [1, 0]))


def test_only_what_is_under_way_is_abandoned():
    said = []
    options = {"threads": 2, "together": 1, "abandon": lambda: said.append("abandoned")}
    results = crew.streamed(str, range(3), **options)
    assert [next(results) for _ in range(3)] == ["0", "1", "2"]
    results.close()  # it was not asked whether there is a fourth
    assert said == []
    results = crew.streamed(str, range(3), **options)
    next(results)
    results.close()
    assert said == ["abandoned"]
    with pytest.raises(ZeroDivisionError):
        list(crew.streamed(lambda n: 1 // n, [1, 0], **options))
    assert said == ["abandoned"] * 2


def test_what_was_remembered_of_a_folder_is_not_believed_if_it_is_damaged(data, tmp_path):
    cache = tmp_path / "cache"
    time.sleep(1.1)
    listing, _ = listing_of(data, folder=cache)
    index = next(cache.glob("scans/*.csv"))
    content = index.read_bytes()
    assert content.count(b".png") == 60
    index.write_bytes(content.replace(listing.rows[0].sha256.encode(), b"0" * 64))
    assert listing_of(data, folder=cache)[0] == listing
    index.write_bytes(b"\xff\xfe")
    assert listing_of(data, folder=cache)[0] == listing


def test_a_file_changed_a_moment_ago_has_no_stamp_that_is_believed(tmp_path, monkeypatch):
    """It may change again within the step of the file system's clock, with the same size."""
    (tmp_path / "x").write_text("x")
    os.utime(tmp_path / "x", (1, 1))  # its inode is still as young
    assert files.stamp_of(os.stat(tmp_path / "x")) == ""
    monkeypatch.setattr(files, "FRESH_SECONDS", -1)
    old = files.stamp_of(os.stat(tmp_path / "x"))
    assert old != ""
    (tmp_path / "x").write_text("xy")
    assert files.stamp_of(os.stat(tmp_path / "x")) != old


def test_an_image_that_goes_over_to_the_test_split_no_longer_counts_for_the_mean(data, tmp_path):
    """Even if the images and their order stay the same."""
    first = prepared(data, tmp_path / "cache")
    last = data / first.listing.of_split("train")[-1].path
    last.rename(data / "test" / "a" / "!.png")
    second = prepared(data, tmp_path / "cache")
    assert (second.images == first.images).all()
    assert second.mean == sums.split_mean_std(second.split("train").images)[0] != first.mean


@pytest.mark.parametrize("side", [28, 32, 64, 96, 224])
def test_every_side_is_prepared(data, tmp_path, side):
    made = prepared(data, tmp_path / "cache", side=side)
    assert made.images.shape == (60, side, side, 3)
    assert (made.images[7] == pictures.pixels(picture_of(made, data, 7), side)).all()


def picture_of(made, data, number):
    return Image.open(data / made.listing.rows[number].path)


def test_pictures_of_the_tests_differ():
    assert (np.asarray(picture(1)) != np.asarray(picture(2))).any()
