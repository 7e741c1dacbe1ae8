"""The most memory that preparing a folder takes, its worker processes included.

It is measured in a process of its own, since a benchmark's own arrays would hide it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from PIL import Image

GIANT, GIANTS = 10_000, 4  # pixels of a side


def with_giants(data: Path) -> Path:
    """Put images that are as large as is taken, and lie on their side, among the others."""
    noise = Image.effect_noise((GIANT // 10, GIANT // 10), 60).resize((GIANT, GIANT))
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(GIANTS):
        path = next(data.iterdir()) / f"giant {number}.jpg"
        if number:
            shutil.copy(data.parent / "giant.jpg", path)
        else:
            noise.convert("RGB").save(path, quality=85, exif=exif)
            shutil.copy(path, data.parent / "giant.jpg")
    return data


def peak(data: Path, side: int) -> int | None:
    """The most bytes that a process which prepares `data` and its children have at a time; None
    where there is no /proc. A page that several of them have counts once."""
    if not Path("/proc/self/smaps_rollup").exists():
        return None
    command = [sys.executable, "-m", "benchmarks.bench_prepare", "--once", str(data)]
    most = 0
    with subprocess.Popen([*command, "--side", str(side)]) as process:
        while process.poll() is None:
            most = max(most, sum(_proportional(pid) for pid in _family(process.pid)))
            time.sleep(0.01)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return most


def _family(pid: int) -> list[int]:
    """A process and its children."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, children.read_text().split())
    return found


def _proportional(pid: int) -> int:
    """Bytes of a process's memory, those that it shares divided by how many share them."""
    with suppress(OSError, IndexError):  # it has just ended
        text = Path(f"/proc/{pid}/smaps_rollup").read_text().partition("Pss:")[2]
        return int(text.split()[0]) * 1024
    return 0
