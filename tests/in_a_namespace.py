"""Runs on a real file system that is full or read-only; start it with `unshare -rm`.

`python in_a_namespace.py FOLDER full|readonly` prints one line of JSON per case. `FOLDER`/whole is
a finished run, `FOLDER`/half one that was stopped in its second epoch.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import processes
import warm as warm
from tiny_runs import end, same

from fasttrain.cli import main as cli
from fasttrain.engine import build
from fasttrain.run import train
from fasttrain.storage import checkpoint

LAST = "checkpoints/last.pt"


def main(folder: Path, what: str) -> None:
    place = folder / "place"
    place.mkdir()
    for found in {"full": full, "readonly": read_only}[what](folder, place):
        print(json.dumps(found), flush=True)


def full(folder: Path, place: Path):
    """Resume a run on a disk with space for k/10 of a checkpoint, k = 0..19."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", place], check=True)
    size = (folder / "half" / LAST).stat().st_size
    for k in range(20):
        run, ballast = place / "run", place / "ballast"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(folder / "half", run)
        fill(ballast, leave=size * 2 * k // 20)
        before = (run / LAST).read_bytes()
        status, err = command(processes.flags(run))
        state, notes = checkpoint.Checkpoints(run / "checkpoints").latest()
        kept = (run / LAST).read_bytes() == before
        ballast.unlink()
        found = {"status": status, "err": err, "kept": kept, "notes": notes}
        found["progress"] = state["progress"] if state else None
        found["again"] = command(processes.flags(run))[0]
        found["same"] = same(end(run), end(folder / "whole"))
        yield found


def fill(ballast: Path, *, leave: int) -> None:
    """Fill the disk up to `leave` bytes, in whole pages."""
    written = 0
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                written += file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, written - leave))


def read_only(folder: Path, place: Path):
    """Start a new run, a resumed and a finished one on a read-only file system."""
    for name in ("half", "whole"):
        shutil.copytree(folder / name, place / name)
    subprocess.run(["mount", "--bind", place, place], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
    touched: list[str] = []
    train.splits = lambda *args, **options: touched.append("data")  # type: ignore[assignment]
    build.build = lambda *args, **options: touched.append("device")  # type: ignore[assignment]
    for name in ("new", "half", "whole"):
        status, err = command(processes.flags(place / name))
        yield {"run": name, "status": status, "err": err, "touched": touched}


def command(arguments: list[str]) -> tuple[int, str]:
    """Return exit status and stderr of a command line."""
    err = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(err):
        return cli.main(arguments), err.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
