"""Keeps a published data set's own files in the user's cache, and verifies them at every start.

It suits sets whose files are read within a second: CIFAR-100 and MNIST. A damaged cache is
replaced, a damaged source is refused.
"""

from __future__ import annotations

import gzip
import hashlib
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import DataError
from ..storage.atomic import write_atomically
from . import archive, cache, fetch
from .archive import Remote
from .fetch import Bar, Log

Digests = Mapping[str, tuple[int, str]]
"""Name -> bytes and SHA-256 of a file."""


def load(
    remote: Remote,
    digests: Digests,
    *,
    inside: str,
    data_dir: Path | None,
    folder: Path,
    log: Log,
    bar: Bar,
) -> dict[str, bytes]:
    """Return the verified files named in `digests`, from `data_dir`, the cache or the network.

    `folder` is the cache, `inside` the folder within the archive that holds the files. Raises
    DataError, which says what to do.
    """
    try:
        if data_dir is not None:
            return _given(remote, digests, inside, data_dir)
        if (files := _cached(folder, digests)) is not None:
            return files
    except OSError as error:
        why = error.strerror or error
        raise DataError(
            f"{remote.title} ({data_dir or folder}): {why}. Check the path and its permissions."
        ) from None
    with cache.exclusive(folder, log):
        if (files := _cached(folder, digests)) is not None:  # another process was first
            return files
        with tempfile.TemporaryDirectory(dir=folder, prefix=cache.SCRATCH) as scratch:
            packed = fetch.fetch(Path(scratch), log=log, bar=bar, what=remote)
            files = _of_archive(remote, digests, inside, packed)
        for name, data in files.items():
            write_atomically(folder / name, data)
    log(f"{remote.title} is in {folder}")
    return files


def _given(remote: Remote, digests: Digests, inside: str, path: Path) -> dict[str, bytes]:
    """Read the files from an archive, or from a folder that holds it or them, plain or as .gz."""
    if path.is_file():
        return _of_archive(remote, digests, inside, path)
    for folder in (path, path / inside, *(path / name for name in ("raw", "MNIST/raw", "data"))):
        found = {name: _file(folder, name, size) for name, (size, _) in digests.items()}
        files = {name: data for name, data in found.items() if data is not None}
        if files:
            return _genuine(files, digests, str(folder))
    for name in remote.known:
        if (path / name).is_file():
            return _of_archive(remote, digests, inside, path / name)
    why = f"has neither {', '.join(digests)} nor {' nor '.join(remote.known)}"
    raise DataError(
        f"--data-dir ({path}): {why if path.is_dir() else 'does not exist'}. {remote.by_hand()}"
    )


def _file(folder: Path, name: str, size: int) -> bytes | None:
    """Return at most `size` + 1 bytes of a file, to notice a longer one; None if it is missing."""
    if (folder / name).is_file():
        with open(folder / name, "rb") as file:
            return file.read(size + 1)
    if (folder / f"{name}.gz").is_file():
        try:
            with gzip.open(folder / f"{name}.gz", "rb") as packed:
                return packed.read(size + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(
                f"{name}.gz (in {folder}): damaged ({error}). Fetch it again."
            ) from None
    return None


def _of_archive(remote: Remote, digests: Digests, inside: str, path: Path) -> dict[str, bytes]:
    most = {name: size for name, (size, _) in digests.items()}
    files = archive.of_archive(path, most, remote.known, (inside,))
    return _genuine(files, digests, str(path))


def _cached(folder: Path, digests: Digests) -> dict[str, bytes] | None:
    """Return the files in the cache if all are intact, else None."""
    try:
        files = {name: (folder / name).read_bytes() for name in digests}
    except OSError:
        return None
    return files if not list(_wrong(files, digests)) else None


def _genuine(files: dict[str, bytes], digests: Digests, where: str) -> dict[str, bytes]:
    if wrong := list(_wrong(files, digests)):
        raise DataError(f"{'; '.join(wrong)} (in {where}). Fetch it again.")
    return files


def _wrong(files: Mapping[str, bytes], digests: Digests) -> Iterable[str]:
    for name, (size, sha256) in digests.items():
        if name not in files:
            yield f"{name}: missing"
        elif (found := hashlib.sha256(files[name]).hexdigest()) != sha256:
            yield f"{name}: {len(files[name]):,} bytes with SHA-256 {found}, not {size:,}, {sha256}"
