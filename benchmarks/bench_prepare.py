"""Preparing a folder of JPEGs: ours on all cores, one Pillow thread, and reading image by image.

python -m benchmarks.bench_prepare [--images 10000] [--side 64] [--rounds 5] [--name box]

What is prepared once is read in no time by every later epoch; the peer that most trainers are
reads and decodes each file again in every epoch. They take turns over the same files, which are in
the page cache, and ours starts from an empty cache of its own each time. Ours is two passes:
SHA-256 and header of every file, then pixels. A ratio is the median of those of each round, since
what else runs on a machine changes from one round to the next. Memory is measured apart.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import table
from benchmarks.peak_memory import GIANT, GIANTS, peak, with_giants
from fasttrain.data import crew, files, layouts, prepare, scan, workers
from fasttrain.machine import environment

FULL = 256  # pixels of a side of the JPEGs
BAR = 0.8  # of cores x the rate of one thread


def written(folder: Path, count: int) -> Path:
    """`count` JPEGs of ten classes that compress as photographs do, about 15 kB each."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:FULL, :FULL] / FULL
    for number in range(count):
        waves = sum(
            random.uniform(10, 60, 3) * np.sin(a * x + b * y + c)[..., None]
            for a, b, c in random.uniform(-40, 40, (6, 3))
        )
        pixels = np.clip(128 + waves + random.normal(0, 6, (FULL, FULL, 3)), 0, 255)
        path = folder / f"class {number % 10}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=85)
    return folder


def ours(data: Path, side: int) -> None:
    """From a path to a mapped array, with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        again(data, side, Path(cache))


def again(data: Path, side: int, cache: Path) -> None:
    """The same on a later start: the files are looked at, the array is verified and mapped."""
    found = layouts.find(data)
    with workers.Workers() as hands:
        listing = scan.scan(found, folder=cache, workers=hands)
        prepare.prepare(listing, found.source, side=side, folder=cache, workers=hands)


def a_slice(paths: list[Path], side: int) -> np.ndarray:
    """The same for some of the files."""
    images = np.empty((len(paths), side, side, 3), np.uint8)
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            small = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        images[number] = np.asarray(small)
    return images


def one_pillow_thread(data: Path, side: int) -> None:
    """Decode, resize and keep: the same work, and nothing else."""
    a_slice(sorted(data.rglob("*.jpg")), side)


def pillow_processes(pool: Executor, data: Path, side: int) -> None:
    """The same by a process for each core, warm: what the machine can give."""
    paths, cores = sorted(data.rglob("*.jpg")), crew.cores()
    parts = [paths[start::cores] for start in range(cores)]
    for _ in pool.map(a_slice, parts, [side] * cores):
        pass


def image_folder(data: Path, side: int) -> None:
    """As torchvision's ImageFolder does it: every epoch, an image at a time, to a float tensor."""
    import torch

    for folder in sorted(data.iterdir()):
        for path in sorted(folder.iterdir()):
            with open(path, "rb") as file:
                image = Image.open(file).convert("RGB")
            small = image.resize((side, side), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()
            pixels.to(torch.float32).div_(255)


def measured(count: int, side: int, rounds: int) -> dict[str, Any]:
    """Images a second of each provider, and ours as a part of cores x one thread."""
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(crew.cores(), mp_context=context) as pool,
    ):
        data, cache = written(Path(folder) / "data", count), Path(folder) / "cache"
        again(data, side, cache)
        time.sleep(files.FRESH_SECONDS + 0.1)
        again(data, side, cache)  # remembers what was too young to be
        pillow_processes(pool, data, side)
        providers: dict[str, Callable[[], None]] = {
            "ours": lambda: ours(data, side),
            "one Pillow thread": lambda: one_pillow_thread(data, side),
            "Pillow processes": lambda: pillow_processes(pool, data, side),
            "ImageFolder": lambda: image_folder(data, side),
            "ours, a later start": lambda: again(data, side, cache),
        }
        seconds: dict[str, list[float]] = {name: [] for name in providers}
        for _ in range(rounds):
            for name, run in providers.items():
                began = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - began)
        peaks = {f"these {count:,}": peak(data, side)}
        peaks[f"with {GIANTS} of {GIANT**2 // 10**6} megapixels among them"] = peak(
            with_giants(data), side
        )
    cores, slow = crew.cores(), seconds["one Pillow thread"]
    rows = [
        {
            "provider": name,
            "n": rounds,
            "seconds": times,
            "median_seconds": median(times),
            "images_per_second": count / median(times),
            "of_cores_times_one_thread": median(
                one / each for one, each in zip(slow, times, strict=True)
            )
            / cores,
        }
        for name, times in seconds.items()
    ]
    group = f"preparing {count:,} JPEGs of {FULL} x {FULL} to {side} x {side}"
    return {"group": group, "cores": cores, "bar": BAR, "rows": rows, "peak_bytes": peaks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--once", type=Path, help="prepare this folder, and measure nothing")
    parser.add_argument("--name", help="keep as benchmarks/results/prepare-NAME.json")
    asked = parser.parse_args()
    if asked.once:
        ours(asked.once, asked.side)
        return
    result = measured(asked.images, asked.side, asked.rounds)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    print(f"{result['group']}, {result['cores']} cores, load {load}")
    for row in result["rows"]:
        print(
            f"{row['provider']:>20}: {row['images_per_second']:>9,.0f} images/s, "
            f"{row['of_cores_times_one_thread']:.2f} of cores x one thread"
        )
    for what, size in result["peak_bytes"].items():
        print(f"{'peak memory':>20}: {size and round(size / 2**20)} MiB, {what}")
    if asked.name:
        command = (
            f"python -m benchmarks.bench_prepare --images {asked.images} --side {asked.side} "
            f"--rounds {asked.rounds}"
        )
        about = {"command": command, "environment": environment.describe(), "load": load}
        table.store({**about, **result}, "prepare", asked.name)


if __name__ == "__main__":
    main()
