"""The images of a run: CIFAR-10 from --data-dir or the cache, else synthetic ones; no network.

--data-dir is read once, into a cache in the scratch folder, so that no later stage decodes it anew.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.gpu.record import Job
from fasttrain.data import cache, cifar10
from fasttrain.errors import DataError

MADE = ["--dataset", "synthetic"]


def flags(job: Job) -> list[str]:
    """The flags of a run on CIFAR-10; on synthetic images, with a note, where it is not to be had.

    Their speed is the same, their accuracy says nothing.
    """
    try:
        folder = real(job)
    except DataError as error:
        job.record.note(f"synthetic images, so that no accuracy says anything: {error}")
        job.record.put("images", "synthetic")
        return MADE
    job.record.put("images", "cifar10")
    return ["--cache-dir", str(folder)]


def real(job: Job) -> Path:
    """A folder for --cache-dir that holds CIFAR-10. Raises DataError where there is none."""
    if job.data_dir is None:
        if cache.read(cifar10.where(), cifar10.DIGESTS) is None:
            raise DataError("CIFAR-10: not in the cache. Name an archive or a folder by --data-dir")
        return cifar10.where().parent
    made = job.scratch / "cache"
    folder = cifar10.where(made)
    if not (folder / "test_labels.npy").exists():
        halves = cifar10.load(job.data_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as scratch:
            cache.write(folder, halves, scratch=Path(scratch))
    return made
