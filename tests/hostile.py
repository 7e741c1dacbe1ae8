"""Malicious files, and a program that records what happens when they are opened.

    python -m tests.hostile FOLDER [trusting]

It opens every file in FOLDER/run/checkpoints and FOLDER/archives as fasttrain does, under an audit
hook, and prints the results as JSON. `trusting` opens them as a careless program would. It runs in
its own process because an audit hook cannot be removed.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fasttrain.cli import main as cli
from fasttrain.data import decode
from fasttrain.errors import FasttrainError
from fasttrain.storage import checkpoint
from tests.tiny_cifar10 import COUNT, DIGESTS, binary_files, known, package_files

WEIGHTS = {"format": 1, "progress": [1, 0], "weight": torch.arange(6.0)}
INSIDE = "cifar-10-batches-bin/test_batch.bin"
MANY = 100_000


class Calls:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def signed(payload: bytes) -> bytes:
    """Return a payload with a valid digest, which an attacker can compute as well."""
    return payload + checkpoint._trailer(memoryview(payload))


def saved(value: object, *, archive: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=archive)
    return buffer.getvalue()


def changed(change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a valid checkpoint's archive with `change(name, bytes)` as each member's content."""
    buffer = io.BytesIO()
    old = zipfile.ZipFile(io.BytesIO(saved(WEIGHTS)))
    with zipfile.ZipFile(buffer, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return buffer.getvalue()


def with_pickle(pickled: bytes) -> bytes:
    """Return a checkpoint's archive with another pickle in it."""
    return changed(lambda name, data: pickled if name.endswith("data.pkl") else data)


def with_members(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO(saved(WEIGHTS))
    with zipfile.ZipFile(buffer, "a") as more:
        for name, data in members.items():
            more.writestr(name, data)
    return buffer.getvalue()


def overlapping() -> bytes:
    """An archive whose thousand members are all the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("archive/data/0", bytes(10_000))
        entry = made.infolist()[0]
        made.filelist += [_renamed(entry, f"archive/data/{n}") for n in range(1, 1000)]
        made._didModify = True
    return buffer.getvalue()


def _renamed(entry: zipfile.ZipInfo, name: str) -> zipfile.ZipInfo:
    other = zipfile.ZipInfo(name)
    for field in ("file_size", "compress_size", "CRC", "header_offset", "flag_bits"):
        setattr(other, field, getattr(entry, field))
    return other


def legacy_tar(pickled: bytes) -> bytes:
    """Return a file in torch's first format, a tar of pickles, which old releases unpickle."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(pickled)
            made.addfile(info, io.BytesIO(pickled))
    return buffer.getvalue()


def script() -> bytes:
    """A TorchScript archive, which holds code."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but such files still exist
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
    return buffer.getvalue()


def beyond_its_storage() -> bytes:
    """Return a tensor whose shape has more numbers than its storage."""
    old, new = b"K\x06\x85", b"M\x00\x60\x85"  # a shape of (6,), of (24576,)
    return changed(
        lambda name, data: data.replace(old, new, 1) if name.endswith("data.pkl") else data
    )


def sparse() -> bytes:
    """Return a sparse tensor with an index out of range."""
    bad = torch.sparse_coo_tensor([[0, 10**9]], [1.0, 2.0], (3,), check_invariants=False)
    return saved({**WEIGHTS, "weight": bad})


def attacks(canary: Path) -> dict[str, Callable]:
    """Return calls that would create the canary file, by name."""
    touch = f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Calls(os.system, f"touch {canary}"),
        "eval": Calls(eval, touch),
        "exec": Calls(exec, touch),
        "open": Calls(open, str(canary), "w"),
        "Popen": Calls(subprocess.check_call, ["touch", str(canary)]),
        "mkdir": Calls(os.mkdir, str(canary)),
        "storage": Calls(torch.storage._load_from_bytes, saved(Calls(eval, touch))),
    }


def checkpoints(canary: Path) -> dict[str, bytes]:
    """Return malicious and broken checkpoints with valid digests; the first ones run code."""
    files = {}
    for name, attack in attacks(canary).items():
        files[f"run {name}"] = saved(attack)
        files[f"run {name} next to weights"] = saved({**WEIGHTS, "deep": [{"x": (1, attack)}]})
        files[f"run {name} in the archive's pickle"] = with_pickle(pickle.dumps(attack, protocol=2))
        files[f"run {name} in the legacy format"] = saved(attack, archive=False)
        files[f"run {name} as a bare pickle"] = pickle.dumps(attack)
    system = f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()
    files["run GLOBAL os system"] = with_pickle(system)
    files["run GLOBAL posix system"] = with_pickle(system.replace(b"cos", b"cposix"))
    files["a legacy tar"] = legacy_tar(system)
    files["TorchScript"] = script()
    files["zip bomb"] = changed(lambda name, data: data + bytes(20 << 20), zipfile.ZIP_DEFLATED)
    files["overlapping members"] = overlapping()
    files["many members"] = with_members({f"archive/{n}": b"" for n in range(MANY)})
    files["beyond its storage"] = beyond_its_storage()
    files["sparse with a bad index"] = sparse()
    files["nan weights"] = saved({**WEIGHTS, "weight": torch.tensor([1.0, float("nan")])})
    files["a numpy array"] = saved({**WEIGHTS, "weight": np.arange(3)})
    files["no run"] = saved(WEIGHTS)
    files["empty"] = b""
    return files


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"owned", link: str = ""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    info.devmajor, info.devminor = 1, 3
    return info, data


def tarred(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as packed:
        for info, data in members:
            packed.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def whole(files: dict[str, bytes], folder: str) -> bytes:
    return tarred(*(member(f"{folder}/{name}", data=data) for name, data in files.items()))


def overridden(path: str) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member whose extended header replaces its harmless name."""
    info, data = member("harmless")
    info.pax_headers = {"path": path}
    return info, data


def archives(canary: Path) -> dict[str, bytes]:
    """Return malicious archives of CIFAR-10; the first ones write outside when unpacked."""
    out = os.path.relpath(canary, canary.parent / "unpacked")
    pickled = pickle.dumps(attacks(canary)["os.system"])
    header = tarfile.TarInfo("cifar-10-batches-bin/x").tobuf()
    files, pictures = binary_files(), package_files()
    labelled = b"\xff" + files["data_batch_1.bin"][1:]
    half = pictures["data_batch_1.png"][: len(pictures["data_batch_1.png"]) // 2]
    return {
        "write ../x": tarred(member(out)),
        "write an absolute path": tarred(member(str(canary))),
        "write through a name with ..": tarred(
            member("cifar-10-batches-bin", tarfile.DIRTYPE, b""),
            member(f"cifar-10-batches-bin/../{out}"),
        ),
        "write through a link": tarred(
            member("cifar-10-batches-bin", tarfile.SYMTYPE, b"", str(canary.parent)),
            member(f"cifar-10-batches-bin/{canary.name}"),
        ),
        "write by an extended header": tarred(overridden(out)),
        "a hard link": tarred(member(INSIDE, tarfile.LNKTYPE, b"", str(canary))),
        "a device": tarred(member(INSIDE, tarfile.CHRTYPE, b"")),
        "a pipe": tarred(member(INSIDE, tarfile.FIFOTYPE, b"")),
        "a bomb": tarred(member(INSIDE, data=bytes(60 << 20))),
        "many members": gzip.compress(header * MANY, 1),
        "a pickled batch": tarred(member("cifar-10-batches-py/data_batch_1", data=pickled)),
        "a pickle for a batch": tarred(member(INSIDE, data=pickled)),
        "a size that lies": gzip.compress(
            header[:124] + b"77777777777\x00" + header[136:] + struct.pack("512x"), 1
        ),
        "cut off": tarred(member(INSIDE, data=bytes(30730)))[:-900],
        "a label of 255": whole({**files, "data_batch_1.bin": labelled}, "cifar-10-batches-bin"),
        "half a picture": whole({**pictures, "data_batch_1.png": half}, "package"),
        "empty": b"",
    }


class Watch:
    """An audit hook that records what Python runs, and what it writes outside `allowed`."""

    RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pty.spawn")
    RUNS += ("pickle.find_class", "ctypes.dlopen", "socket.connect", "shutil.unpack_archive")
    CHANGES = ("os.mkdir", "os.symlink", "os.link", "os.rename", "os.remove", "os.rmdir")

    def __init__(self, allowed: Path) -> None:
        self.allowed = f"{allowed}{os.sep}"
        self.seen: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple) -> None:
        code = event == "exec" and getattr(args[0], "co_filename", "").startswith("<string")
        flags = args[2] if event == "open" and isinstance(args[2], int) else 0
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or event in self.CHANGES
        if event in self.RUNS or code:
            self.seen.append(event)
        elif writes and not isinstance(args[0], int):  # a number is a descriptor
            path = os.path.abspath(os.fsdecode(args[0]))
            inside = f"{path}{os.sep}".startswith(self.allowed)
            self.seen += [] if inside else [f"{event} {path}"]


def careful(path: Path) -> int:
    """Return the exit status of fasttrain for a file."""
    if path.parent.name == "checkpoints":
        return cli.main(["--resume", str(path), "--device", "cpu"])
    try:
        # Its digest is added to the known ones, so that it is parsed and not refused at once.
        decode.read_any(path, digests=DIGESTS, archives=known(path))
    except FasttrainError as error:
        return error.code if cli.main(["data", "--data-dir", str(path)]) == error.code else 1
    return 0


def careless(path: Path) -> int:
    """Open a file without any check."""
    data = path.read_bytes()
    try:
        if path.parent.name == "archives":
            with tarfile.open(path) as packed:
                packed.extractall(path.parent.parent / "unpacked", filter="fully_trusted")
        elif data[:2] == b"PK" or data[:3] == b"\x80\x02\x8a" or b"sys_info" in data[:100]:
            torch.load(io.BytesIO(data[: -checkpoint._TRAILER]), weights_only=False)
        else:
            pickle.loads(data)
    except Exception:  # what comes after the payload may fail
        return 1
    return 0


def main(folder: Path, *, trusting: bool) -> dict[str, list]:
    """Return for each file: status, what the hook recorded, whether the canary exists."""
    decode.BATCH = COUNT
    files = sorted(folder.glob("run/checkpoints/*.pt")) + sorted(folder.glob("archives/*.gz"))
    results = {}
    opened, canary = careless if trusting else careful, folder / "canary"
    for path in files:
        if path.stem in ("empty", "half a picture"):
            careful(path)  # does the late imports before the hook is added
    watch = Watch(folder / "run")
    for path in files:
        if trusting:
            shutil.rmtree(folder / "unpacked", ignore_errors=True)
            (folder / "unpacked").mkdir()
        watch.seen.clear()
        code = opened(path)
        results[path.stem] = [code, list(watch.seen), os.path.lexists(canary)]
        if canary.is_dir():
            canary.rmdir()
        elif os.path.lexists(canary):
            canary.unlink()
    return results


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), trusting="trusting" in sys.argv)))
