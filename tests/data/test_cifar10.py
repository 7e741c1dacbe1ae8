"""CIFAR-10 from the cache, from a replacement of the network, and the real data."""

import hashlib
import multiprocessing
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from platformdirs import macos, unix, windows
from tiny_cifar10 import BATCHES, COUNT, DIGESTS, binary_files, expect, known, pack

from fasttrain.cli.main import main
from fasttrain.data import Split, cache, cifar10, decode, fetch
from fasttrain.errors import DataError


def pretend(folder):
    """Return patches: 20 records per file for CIFAR-10, a slow copy of a file for the network."""
    read_any, archives = decode.read_any, known(folder / "a.tar.gz")

    def fetched(scratch, **options):
        with open(folder / "fetches", "a") as log:
            log.write("x")
        time.sleep(0.3)
        return shutil.copy(folder / "a.tar.gz", scratch)

    return [
        (decode, "BATCH", COUNT),
        (decode, "read_any", lambda path: read_any(Path(path), digests=DIGESTS, archives=archives)),
        (fetch, "fetch", fetched),
    ]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    pack(tmp_path / "a.tar.gz", binary_files())
    for patch in pretend(tmp_path):
        monkeypatch.setattr(*patch)
    halves = decode.read_any(tmp_path / "a.tar.gz")
    monkeypatch.setattr(cifar10, "DIGESTS", cache.digests_of(halves))
    return tmp_path


def fetches(folder):
    path = folder / "fetches"
    return len(path.read_text()) if path.exists() else 0


def test_it_is_fetched_once_and_then_comes_from_the_cache(tiny):
    said = []
    expect(cifar10.load(folder=tiny / "cache", log=said.append))
    expect(cifar10.load(folder=tiny / "cache", log=said.append))
    assert fetches(tiny) == 1
    assert said == [f"CIFAR-10 is in {tiny / 'cache'}"]


def test_nothing_is_written_outside_the_cache(tiny):
    cifar10.load(folder=tiny / "cache")
    found = {path.relative_to(tiny).as_posix() for path in tiny.rglob("*")}
    names = [f"cache/{name}.npy" for name in cache.NAMES]
    assert found == {"a.tar.gz", "fetches", "cache", "cache/.lock", *names}


def test_the_data_dir_is_read_and_nothing_is_fetched_or_written(tiny):
    before = sorted(tiny.rglob("*"))
    train, test = cifar10.load(tiny / "a.tar.gz")
    expect((train, test))
    assert not train.images.flags.writeable
    assert sorted(tiny.rglob("*")) == before


def test_a_data_dir_with_nothing_usable_is_refused_and_nothing_is_fetched(tiny):
    (tiny / "empty").mkdir()
    with pytest.raises(DataError, match="holds neither CIFAR-10's binary archive nor"):
        cifar10.load(tiny / "empty")
    with pytest.raises(DataError, match="does not exist"):
        cifar10.load(tiny / "nosuch")
    assert fetches(tiny) == 0


@pytest.mark.parametrize("name", cache.NAMES)
def test_a_damaged_cache_is_made_anew_and_says_so(tiny, name):
    cifar10.load(folder=tiny / "cache")
    path = tiny / "cache" / f"{name}.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    said = []
    expect(cifar10.load(folder=tiny / "cache", log=said.append))
    assert "damaged" in said[0]
    assert fetches(tiny) == 2


def test_an_interrupted_fetch_leaves_no_cache_and_the_next_start_fetches(tiny, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patches:
        patches.setattr(cache, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cifar10.load(folder=tiny / "cache")
    assert [path.name for path in (tiny / "cache").iterdir()] == [".lock"]
    expect(cifar10.load(folder=tiny / "cache"))


def test_halves_of_another_digest_are_refused_and_not_kept(tiny, monkeypatch):
    monkeypatch.setattr(cifar10, "DIGESTS", {**cifar10.DIGESTS, "test_labels": "0" * 64})
    with pytest.raises(DataError, match=f"test_labels .*, not {'0' * 64}"):
        cifar10.load(folder=tiny / "cache")
    assert [path.name for path in (tiny / "cache").iterdir()] == [".lock"]


def start_one(folder, digests, results):
    for patch in pretend(folder):  # this is a process of its own
        setattr(*patch)
    cifar10.DIGESTS = digests
    train, _ = cifar10.load(folder=folder / "cache")
    results.put(int(train.images.astype(int).sum()))


def test_of_four_that_start_at_once_one_fetches_and_all_go_on(tiny):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    starts = [
        context.Process(target=start_one, args=(tiny, cifar10.DIGESTS, results)) for _ in range(4)
    ]
    for process in starts:
        process.start()
    sums = [results.get(timeout=60) for _ in starts]
    for process in starts:
        process.join()
    assert fetches(tiny) == 1
    whole = np.concatenate([BATCHES[name][:, 1:] for name in decode.NAMES[:-1]])
    assert sums == [int(whole.astype(int).sum())] * 4


@pytest.fixture
def on_platform(monkeypatch, tmp_path):
    """Make fasttrain and platformdirs see another operating system, with `tmp_path` as home."""

    def choose(platform: str, **variables: str) -> Path:
        kinds = {"linux": unix.Unix, "darwin": macos.MacOS, "win32": windows.Windows}
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(platformdirs, "PlatformDirs", kinds[platform])
        monkeypatch.setattr(windows, "get_win_folder", lambda name: f"{tmp_path}/AppData/Local")
        for name, value in {"XDG_CACHE_HOME": "", "HOME": str(tmp_path), **variables}.items():
            monkeypatch.setenv(name, value.format(home=tmp_path))
        return tmp_path

    return choose


@pytest.mark.parametrize(
    ("platform", "xdg", "expected"),
    [
        ("linux", "{home}/caches", "caches/fasttrain/cifar10"),
        ("linux", "relative", ".cache/fasttrain/cifar10"),
        ("linux", "", ".cache/fasttrain/cifar10"),
        ("darwin", "", "Library/Caches/fasttrain/cifar10"),
        ("darwin", "{home}/caches", "caches/fasttrain/cifar10"),
        ("win32", "", "AppData/Local/fasttrain/Cache/cifar10"),
    ],
)
def test_the_cache_is_where_the_platform_keeps_caches(on_platform, platform, xdg, expected):
    home = on_platform(platform, XDG_CACHE_HOME=xdg)
    assert cifar10.where() == home / expected


@pytest.mark.parametrize(
    ("platform", "earlier"),
    [
        ("linux", ".cache/fasttrain/cifar10"),
        ("darwin", "Library/Caches/fasttrain/cifar10"),
        ("win32", "AppData/Local/fasttrain/cifar10"),
    ],
)
def test_a_cache_of_release_0_1_stays_in_use(on_platform, platform, earlier):
    xdg = "{home}/caches" if platform == "darwin" else ""
    home = on_platform(platform, XDG_CACHE_HOME=xdg)
    elsewhere = cifar10.where()
    (home / earlier).mkdir(parents=True)
    assert cifar10.where() == home / earlier
    assert cache.default_folder("other").parent == (
        elsewhere.parent if platform != "linux" else (home / earlier).parent
    )


def test_a_user_without_a_home_reads_what_to_do_instead_of_a_traceback(monkeypatch, capsys):
    def no_home(*_, **__):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(platformdirs, "user_cache_path", no_home)
    assert main(["data"]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fasttrain: error: cache (cifar10): no home folder")
    assert line.endswith("Set HOME, or name one with --cache-dir.")


def test_a_folder_that_the_caller_names_is_used_instead(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "default_folder", lambda name: tmp_path / "default")
    named = tmp_path / "named"
    train, _ = cifar10.load(folder=named)
    assert (named / "train_images.npy").exists()
    assert Path(train.images.filename).parent == named
    assert not (tmp_path / "default").exists()


@pytest.fixture(scope="module")
def real():
    try:
        return cifar10.load()
    except DataError as error:
        pytest.skip(f"CIFAR-10 cannot be had here: {error}")


CANONICAL_MD5 = (
    "5dd7e06a14cb22eb9f671a540d1b7c25",
    "5ea93a67294ea407fff1d09f752e9692",
    "942cd6a4bcdd0dd3c604fbe906cb4421",
    "ae636b3ba5c66a11e91e8cb52e771fcb",
    "53f37980c15c3d472c316c40844f3f0d",
    "803d5f7f4d78ea53de84dbe85f74fb6d",
)


def test_real_cifar10_has_the_canonical_bytes(real):
    train, test = real
    parts = [
        Split(train.images[i:][:10_000], train.labels[i:][:10_000])
        for i in range(0, 50_000, 10_000)
    ]
    for part, md5, sha256 in zip(
        [*parts, test], CANONICAL_MD5, decode.DIGESTS.values(), strict=True
    ):
        planes = part.images.transpose(0, 3, 1, 2).reshape(10_000, -1)
        whole = np.concatenate([part.labels.astype(np.uint8)[:, None], planes], axis=1).tobytes()
        assert hashlib.md5(whole).hexdigest() == md5
        assert hashlib.sha256(whole).hexdigest() == sha256


def test_real_cifar10_is_balanced_and_its_statistics_are_the_constants(real):
    train, test = real
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    pixels = train.images.reshape(-1, 3)
    counts = np.stack([np.bincount(pixels[:, channel], minlength=256) for channel in range(3)])
    values = np.arange(256) / 255
    mean = counts @ values / len(pixels)
    std = np.sqrt(counts @ values**2 / len(pixels) - mean**2)
    assert mean == pytest.approx(cifar10.MEAN, abs=5e-5)
    assert std == pytest.approx(cifar10.STD, abs=5e-5)


def test_real_cifar10_is_verified_at_every_start_in_under_a_second(real):
    began = time.perf_counter()
    cifar10.load()
    assert time.perf_counter() - began < 3.0  # 0.1 s on an idle machine


def test_real_cifar10_is_described(real):
    lines = cifar10.describe()
    assert lines["where"] == cifar10.where()
    assert lines["train"] == "50,000 images, 153,600,000 bytes, 5,000 to 5,000 a class"
    assert lines["test"] == "10,000 images, 30,720,000 bytes, 1,000 to 1,000 a class"
    assert lines["sha256 train_images"] == cifar10.DIGESTS["train_images"]
