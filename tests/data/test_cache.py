"""The cache is verified at every opening, never half written, and filled once."""

import errno
import os
import stat
import threading
import time

import numpy as np
import pytest
from filelock import FileLock

from fasttrain.data import Split, cache
from fasttrain.errors import DataError, OutputError


def made(seed=0):
    random = np.random.default_rng(seed)
    return tuple(
        Split(
            random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
            random.integers(0, 10, count),
        )
        for count in (20, 8)
    )


HALVES = made()
DIGESTS = cache.digests_of(HALVES)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scratch").mkdir()
    cache.write(tmp_path, HALVES, scratch=tmp_path / "scratch")
    assert not list((tmp_path / "scratch").iterdir())
    return tmp_path


def test_what_was_written_is_read_back_mapped_and_read_only(folder):
    found = cache.read(folder, DIGESTS)
    for split, expected in zip(found, HALVES, strict=True):
        for array, original in zip(split, expected, strict=True):
            assert isinstance(array, np.memmap)
            assert not array.flags.writeable
            assert array.dtype == original.dtype
            assert np.array_equal(array, original)


def test_the_digest_is_that_of_the_bytes():
    import hashlib

    assert DIGESTS["test_images"] == hashlib.sha256(HALVES[1].images.tobytes()).hexdigest()
    assert DIGESTS["train_labels"] == hashlib.sha256(HALVES[0].labels.tobytes()).hexdigest()


def arrays(halves):
    return dict(zip(cache.NAMES, (*halves[0], *halves[1]), strict=True))


@pytest.mark.parametrize("name", cache.NAMES)
def test_a_change_of_any_byte_is_seen_unless_it_is_of_the_header_that_is_not_used(folder, name):
    path = folder / f"{name}.npy"
    good = path.read_bytes()
    assert np.array_equal(np.load(path), arrays(HALVES)[name])  # for others the header is right
    for place in [*range(128), *range(128, len(good), max(1, len(good) // 20)), len(good) - 1]:
        damaged = bytearray(good)
        damaged[place] ^= 0x21
        path.write_bytes(damaged)
        found = cache.read(folder, DIGESTS)
        assert (found is None) == (place >= 128)
        if found:
            assert np.array_equal(arrays(found)[name], arrays(HALVES)[name])


def test_bytes_behind_the_array_are_no_cache(folder):
    with open(folder / "train_images.npy", "ab") as file:
        file.write(bytes(3072))
    assert cache.read(folder, DIGESTS) is None


@pytest.mark.parametrize("name", cache.NAMES)
def test_a_missing_an_empty_and_a_cut_off_file_are_no_cache(folder, name):
    path = folder / f"{name}.npy"
    good = path.read_bytes()
    for length in (0, 5, 100, 128, len(good) - 1):
        path.write_bytes(good[:length])
        assert cache.read(folder, DIGESTS) is None
    path.unlink()
    assert cache.read(folder, DIGESTS) is None
    path.mkdir()
    assert cache.read(folder, DIGESTS) is None


def test_a_pickle_in_place_of_an_array_is_not_loaded(folder):
    class Owned:
        def __reduce__(self):
            return (os.mkdir, (str(folder / "canary"),))

    np.save(folder / "train_labels.npy", np.array([Owned()], dtype=object), allow_pickle=True)
    assert cache.read(folder, DIGESTS) is None
    assert not (folder / "canary").exists()


def test_arrays_that_were_given_out_outlive_a_cache_made_anew(folder):
    before, _ = cache.read(folder, DIGESTS)
    cache.write(folder, made(1), scratch=folder / "scratch")
    assert np.array_equal(before.images, HALVES[0].images)
    assert cache.read(folder, DIGESTS) is None
    assert cache.read(folder, cache.digests_of(made(1))) is not None


def test_the_folder_is_private_and_leftovers_of_killed_processes_go(tmp_path):
    inner = tmp_path / "a" / "b"
    with cache.exclusive(inner, pytest.fail):
        (inner / ".fetch-x").mkdir()
        (inner / ".fetch-x" / "half").write_bytes(b"x")
    with cache.exclusive(inner, pytest.fail):
        assert [path.name for path in inner.iterdir()] == [".lock"]
    if os.name == "posix":
        assert stat.S_IMODE(inner.stat().st_mode) == 0o700


def test_who_has_to_wait_is_told_and_goes_on(tmp_path):
    held, said = threading.Event(), []

    def hold():
        with FileLock(tmp_path / ".lock"):
            held.set()
            time.sleep(1.3)

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    began = time.perf_counter()
    with cache.exclusive(tmp_path, said.append):
        assert 1.0 < time.perf_counter() - began < 10
    other.join()
    assert said == ["waiting for another process that downloads the data"]


def test_waiting_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "WAIT_SECONDS", 0.2)
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(DataError, match=r"another process has held its lock for 0.2 s"),
        cache.exclusive(tmp_path, lambda line: None),
    ):
        pytest.fail("two are alone")


def test_a_full_disk_is_an_output_error_and_another_a_data_error(tmp_path):
    for number, kind in ((errno.ENOSPC, OutputError), (errno.EIO, DataError)):
        with (
            pytest.raises(kind, match="--cache-dir, or the data with --data-dir") as caught,
            cache.exclusive(tmp_path, pytest.fail),
        ):
            raise OSError(number, os.strerror(number))
        assert os.strerror(number) in str(caught.value)
        with cache.exclusive(tmp_path, pytest.fail):  # the lock is free again
            pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(DataError, match="cache"),
        cache.exclusive(tmp_path / "file" / "x", pytest.fail),
    ):
        pytest.fail("there is no such folder")
