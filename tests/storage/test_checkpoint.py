"""A checkpoint loads exactly as it was saved or not at all, and the newest good one is found."""

from __future__ import annotations

import io
import os
import random
import re
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch

from fasttrain.errors import CheckpointError
from fasttrain.storage.checkpoint import Checkpoints, load, save


def state(epoch: int) -> dict:
    """A small state with every kind of value that a checkpoint may hold."""
    generator = torch.Generator().manual_seed(epoch)
    weights = torch.randn(8, 3, 3, 3, generator=generator)
    return {
        "progress": [epoch, 0],
        "model": OrderedDict(
            {"conv.weight": weights.to(memory_format=torch.channels_last), "half": weights.half()}
        ),
        "optimizer": {"state": {0: {"momentum": torch.full((5,), epoch / 7)}}, "lr": [0.1, None]},
        "best": float("-inf"),
        "rng": torch.arange(64, dtype=torch.uint8),
        "text": "\u00e9",
    }


def same(left, right) -> bool:
    """Return whether nested states are equal: types, strides and bits included."""
    if isinstance(left, torch.Tensor):
        alike = isinstance(right, torch.Tensor) and left.dtype == right.dtype
        return alike and left.stride() == right.stride() and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


def flip(path, at: int = 2000) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def loads(path, data: bytes) -> bool:
    """Return whether `load` accepts a file of these bytes."""
    path.write_bytes(data)
    try:
        return bool(load(path))
    except CheckpointError:
        return False


def test_what_is_saved_is_loaded_bit_for_bit_and_by_plain_torch_too(tmp_path):
    path, saved = tmp_path / "a.pt", state(3)
    assert save(path, saved) == path.stat().st_size
    assert same(load(path), {**saved, "format": 1})
    assert same(torch.load(path, weights_only=True), {**saved, "format": 1})
    assert "format" not in saved
    changed = state(3)
    changed["model"]["conv.weight"][0, 0, 0, 0] += 1e-6
    assert not same(load(path), {**changed, "format": 1})


def strata(whole: bytes) -> list[list[tuple[int, int]]]:
    """Return the byte ranges of a checkpoint: headers, pickle, weights, directory, digest."""
    payload = io.BytesIO(whole[: -len(b"\nfasttrain sha256 ") - 65])
    headers, pickled, weights = [], [], []
    with zipfile.ZipFile(payload) as archive:
        for entry in archive.infolist():
            at = entry.header_offset
            name, extra = struct.unpack("<HH", whole[at + 26 : at + 30])
            begin = at + 30 + name + extra
            headers.append((at, begin))
            kind = pickled if entry.filename.endswith(".pkl") else weights
            kind.append((begin, begin + entry.file_size))
        directory = (archive.start_dir, len(payload.getvalue()))
    digest = (len(payload.getvalue()), len(whole))
    return [headers, pickled, weights, [directory], [digest]]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.soak)])
def test_every_one_of_many_flipped_bits_and_truncations_is_detected(
    count, tmp_path, record_property
):
    """Each part of the file in turn; a sixth are truncations; torch.load is the control."""
    path, chance = tmp_path / "a.pt", random.Random(count)
    save(path, state(1))
    whole = path.read_bytes()
    parts, unseen_by_torch = strata(whole), 0
    for k in range(count):
        begin, stop = chance.choice(parts[k % 5])
        at = chance.randrange(begin, max(stop, begin + 1))
        broken = bytearray(whole if k % 6 else whole[:at])
        if k % 6:
            broken[at] ^= 1 << chance.randrange(8)
        assert not loads(path, bytes(broken))
        try:
            torch.load(io.BytesIO(broken), weights_only=True)
            unseen_by_torch += 1
        except Exception:  # whatever it is, torch saw it
            continue
    assert unseen_by_torch > count // 3, "the control: without the digest these would have loaded"
    for cut in (0, 1, 82, 83, 84, len(whole) - 1):
        assert not loads(path, whole[:cut])
    assert not loads(path, whole + b"\n")
    assert loads(path, whole)
    record_property("flipped bits and truncations", count)


@pytest.mark.parametrize("looked", [True, False])
def test_a_damaged_last_is_kept_aside_and_never_pushes_out_the_good_previous(looked, tmp_path):
    for epoch in (1, 2):
        Checkpoints(tmp_path).save_last(state(epoch))
    flip(tmp_path / "last.pt")
    damaged = (tmp_path / "last.pt").read_bytes()
    checkpoints = Checkpoints(tmp_path)
    if looked:
        found, notes = checkpoints.latest()
        assert same(found, {**state(1), "format": 1})
        assert len(notes) == 1
        assert re.search(r"last\.pt\): damaged: its SHA-256 .* Using previous\.pt", notes[0])
        assert sorted(os.listdir(tmp_path)) == ["last.pt", "previous.pt"], "reading changes nothing"
    checkpoints.save_last(state(3))
    assert same(load(tmp_path / "last.pt"), {**state(3), "format": 1})
    assert same(load(tmp_path / "previous.pt"), {**state(1), "format": 1})
    assert (tmp_path / "last.pt.damaged").read_bytes() == damaged


def test_no_valid_checkpoint_is_an_error_that_lists_them_and_none_at_all_is_a_fresh_start(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() == (None, [])
    for epoch in (1, 2):
        checkpoints.save_last(state(epoch))
    for name in ("last.pt", "previous.pt"):
        flip(checkpoints.folder / name)
    with pytest.raises(CheckpointError, match=r"no valid .*last\.pt.*previous\.pt"):
        checkpoints.latest()
    assert sorted(os.listdir(checkpoints.folder)) == ["last.pt", "previous.pt"]


def test_a_run_taken_back_goes_on_from_where_it_was_taken_back_to(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for epoch in (19, 20, 13):
        checkpoints.save_last(state(epoch))
    assert Checkpoints(tmp_path).latest()[0]["progress"] == [13, 0]


def test_the_best_is_kept_apart_from_the_last(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_last(state(1))
    checkpoints.save_best(state(1))
    checkpoints.save_last(state(2))
    assert same(load(tmp_path / "best.pt"), {**state(1), "format": 1})
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt", "previous.pt"]
