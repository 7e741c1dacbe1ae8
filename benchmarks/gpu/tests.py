"""The GPU tests, as `pytest -m gpu` runs them, with their counts and the text of the failures.

If CUDA takes the process down, the files after the one that was running get a new process.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.child import Finished, python
from benchmarks.gpu.record import Job
from benchmarks.gpu.runner import ROOT

# -vv undoes the -q of pyproject.toml: a line for each test, its name before it runs.
PYTEST = ["-m", "pytest", "-vv", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
TOY = ["tests/storage/test_growing.py"]
TEST = re.compile(r"^(?P<file>tests/[^:\s]+)::(?P<name>.+?)(?: (?P<how>[A-Z]+)(?: .*)?)?$", re.M)
CRASHED = 128  # and above, or below 0: a signal ended pytest
MOST_TEXT = 20_000


def measure(job: Job) -> None:
    """Run the tests of every file that has any; record counts, failures and the slowest."""
    files = TOY if job.toy else sorted(_files())
    only = [] if job.toy else ["-m", "gpu", "--durations=10"]
    counts: Counter[str] = Counter()
    texts: list[str] = []
    attempt = 0
    while files:
        attempt += 1
        log = job.out / "logs" / f"pytest-{attempt}.txt"
        done = python(job, [*PYTEST, *only, *files], log=log)
        counts += Counter(how.lower() for _, _, how in tests(done.text) if how)
        texts.append(failures(done.text))
        job.record.put("counts", dict(counts))
        job.record.put("failures", "\n".join(filter(None, texts))[:MOST_TEXT])
        if done.interrupted:
            job.record.note("pytest was interrupted at the end of its share of the time")
        files = [] if done.interrupted else after_crash(done, files)
        if files:
            job.record.note(f"pytest crashed; in a new process: {', '.join(files)}")
    job.record.row({"group": "tests", "provider": "pytest -m gpu", "n": sum(counts.values())})
    if not counts:
        raise RuntimeError(f"pytest ran no test (exit status {done.status}): see its log")


def tests(text: str) -> list[tuple[str, str, str | None]]:
    """File, name and outcome of each test that pytest's text names; None for one that crashed."""
    return [(found["file"], found["name"], found["how"]) for found in TEST.finditer(text)]


def failures(text: str) -> str:
    """The failures and errors of pytest's text, or the last lines of a crash."""
    began = re.search(r"^=+ (?:ERRORS|FAILURES) =+$", text, re.M)
    if began:
        return text[began.start() :]
    crashed = text.find("Fatal Python error")
    return text[crashed:] if crashed >= 0 else ""


def after_crash(done: Finished, files: Sequence[str]) -> list[str]:
    """The files that come after the one in which pytest crashed; none if it did not crash."""
    if 0 <= done.status < CRASHED:
        return []
    reached = [files.index(file) for file, _, _ in tests(done.text) if file in files]
    return list(files[max(reached) + 1 :]) if reached else []


def _files() -> list[str]:
    """The files of tests that name the marker."""
    paths = Path(ROOT / "tests").rglob("test_*.py")
    named = [path for path in paths if "mark.gpu" in path.read_text(encoding="utf-8")]
    return [path.relative_to(ROOT).as_posix() for path in named]
