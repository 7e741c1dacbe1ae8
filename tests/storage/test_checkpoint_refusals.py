"""A file that is not a valid checkpoint is refused with the reason, and its code never runs."""

from __future__ import annotations

import io
import os
import pickle
import re
import subprocess
import zipfile
from typing import NamedTuple

import numpy as np
import pytest
import torch

from fasttrain.errors import CheckpointError, Diverged
from fasttrain.storage import checkpoint
from fasttrain.storage.checkpoint import load, save

GOOD = {"format": 1, "progress": [1, 0], "weight": torch.arange(6.0)}


def refusal(path, data: bytes | None = None) -> str:
    """Return the one-line error of `load`, for the file at `path` or for these bytes."""
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert re.fullmatch(rf"checkpoint \({re.escape(str(path))}\): .+\. .+\.", str(caught.value))
    return str(caught.value)


def signed(payload: bytes) -> bytes:
    """Return a payload with a valid digest, as an attacker would write it."""
    return payload + checkpoint._trailer(memoryview(payload))


def zipped(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def rewritten(change, *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a valid archive with `change(name, bytes)` as the content of each member."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(zipped(GOOD))) as old,
        zipfile.ZipFile(buffer, "w", compression) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return buffer.getvalue()


class Calls:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Row(NamedTuple):
    epoch: int


def test_a_hostile_pickle_with_a_valid_digest_runs_nothing(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "a.pt"
    system = Calls(os.system, f"touch {canary}")
    payloads = {
        "os.system": system,
        "eval": Calls(eval, f"open({str(canary)!r}, 'w')"),
        "exec": Calls(exec, f"open({str(canary)!r}, 'w')"),
        "open": Calls(open, str(canary), "w"),
        "Popen": Calls(subprocess.Popen, ["touch", str(canary)]),
        "torch.load": Calls(torch.load, str(canary)),
        "nested": {**GOOD, "deep": [{"x": (1, system)}]},
        "next to tensors": {"x": torch.nn.Parameter(torch.zeros(2)), "y": system},
    }
    for name, payload in payloads.items():
        pickled = pickle.dumps(payload, protocol=2)
        inside = rewritten(lambda at, was, new=pickled: new if at.endswith("data.pkl") else was)
        for data in (zipped(payload), pickled, inside):
            assert re.search("refused: |unreadable: ", refusal(path, signed(data))), name
            assert not canary.exists(), name
    assert "numbers (posix.system). No code in it was run" in refusal(path, signed(zipped(system)))
    pickle.loads(pickle.dumps(system))
    assert canary.exists(), "the control: where pickles are trusted the payload works"


def test_archives_that_lie_about_sizes_or_compress_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    assert load_of(path, rewritten(lambda name, data: data))["progress"] == [1, 0]
    short = rewritten(lambda name, data: data[:8] if name.endswith("data/0") else data)
    assert "unreadable: " in refusal(path, signed(short))
    bomb = rewritten(lambda name, data: data + b"0" * 10**6, compression=zipfile.ZIP_DEFLATED)
    assert "it is compressed" in refusal(path, signed(bomb))
    assert "unreadable: " in refusal(path, signed(b""))


def load_of(path, payload: bytes) -> dict:
    path.write_bytes(signed(payload))
    return load(path)


ODD = {
    "sparse": torch.zeros(2).to_sparse(),
    "meta": torch.zeros(2, device="meta"),
    "larger than its storage": torch.zeros(1).expand(1000),
    "a set": {1, 2},
    "a dtype": torch.float32,
    "bytes": b"ab",
}


@pytest.mark.parametrize("name", ODD)
def test_only_dense_tensors_and_plain_values_are_loaded_or_saved(name, tmp_path):
    path = tmp_path / "a.pt"
    assert "refused: it contains a" in refusal(path, signed(zipped({**GOOD, "odd": [ODD[name]]})))
    path.unlink()
    with pytest.raises(TypeError, match="tensors and plain values only"):
        save(path, {"odd": [ODD[name]]})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [np.float64(1.0), Row(1), Calls(print)])
def test_what_could_not_be_loaded_is_not_saved(value, tmp_path):
    with pytest.raises(TypeError, match="not an object of"):
        save(tmp_path / "a.pt", {"history": [value]})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_tensors_that_are_not_finite_are_neither_saved_nor_loaded(number, tmp_path):
    path = tmp_path / "a.pt"
    save(path, GOOD)
    whole = path.read_bytes()
    broken = {**GOOD, "weight": torch.tensor([1.0, number])}
    with pytest.raises(Diverged, match="the previous checkpoint is kept"):
        save(path, broken)
    assert path.read_bytes() == whole
    assert "not finite" in refusal(path, signed(zipped(broken)))


def test_every_wrong_file_gets_its_own_reason(tmp_path):
    path = tmp_path / "a.pt"
    save(path, GOOD)
    whole = path.read_bytes()
    assert "not a fasttrain checkpoint" in refusal(path, b"# fasttrain\n\nRead me.\n" * 9)
    assert "is not from fasttrain" in refusal(path, zipped(GOOD))
    assert "it was cut short" in refusal(path, whole[:-1])
    assert "it was cut short" in refusal(path, b"")
    assert "SHA-256 does not match" in refusal(path, b"QK" + whole[2:])
    assert "format 2 is newer than this fasttrain's (1). Upgrade" in refusal(
        path, signed(zipped({**GOOD, "format": 2}))
    )
    for wrong in ({**GOOD, "format": True}, {**GOOD, "format": "1"}, {"a": 1}, [1], torch.zeros(2)):
        assert "has no format number" in refusal(path, signed(zipped(wrong)))
    assert "No such file or directory" in refusal(tmp_path / "missing.pt")
    assert "not a file" in refusal(tmp_path)
    (tmp_path / "loop.pt").symlink_to("loop.pt")
    assert "symbolic links" in refusal(tmp_path / "loop.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    assert "not a file" in refusal(tmp_path / "pipe.pt")


def test_nothing_is_interpreted_before_the_digest_matches(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    save(path, GOOD)
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    opened = []
    monkeypatch.setattr(checkpoint, "_unpack", lambda *args: opened.append(args))
    assert "SHA-256" in refusal(path, bytes(data))
    assert opened == []
