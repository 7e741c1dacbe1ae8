"""The command `predict`: rows on standard output or in a file, everything else on stderr.

So that its output can be piped. What can be refused is refused before the first row.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ..console.console import Display
from ..errors import DataError, Stopped, UsageError, shown
from ..machine import memory
from ..machine.allocator import keep_pages
from ..parallel.signals import Signals
from ..predict import inputs, rows, stream
from ..predict.classifier import Classifier, load
from ..predict.prediction import Prediction, check_top, prediction
from ..predict.score import Score
from ..predict.stream import Answer
from ..storage import growing
from . import output

ENDINGS = {".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".txt": "table"}


def predict(asked: argparse.Namespace, *, display: Display) -> int:
    """Classify the images that `asked` names; return the exit status.

    Raises DataError at the end, after all rows, if some images could not be used.
    """
    stdout = sys.stdout  # while a bar is shown, rich puts another stream there
    form = asked.format or _form(asked.out, stdout)
    _refuse_to_replace(asked)
    classifier = load(asked.run, device=asked.device)
    check_top(asked.top, classifier.classes)
    if classifier.device.type == "cpu":
        keep_pages()
    found = Outcome(Score(classifier.classes, threshold=asked.threshold))
    size = asked.batch_size or classifier.batch_size
    try:
        with (
            Signals(),
            memory.reported(size, classifier.device),
            _output(asked.out, form, stdout) as write,
        ):
            with display.counted() as counted:
                bar = counted("images") if asked.out or not stdout.isatty() else None
                batches = _predictions(asked, classifier, found, bar, display)
                for text in rows.texts(batches, form, top=asked.top, classes=classifier.classes):
                    write(text)
            if form == "table" and (score := found.score.text()):
                write(f"\n{score}")
    except BrokenPipeError:  # the reader has enough, as in `| head`
        return output.READER_GONE
    except Stopped as stop:
        said = f"{found.images:,} images done" + (", no file written" if asked.out else "")
        raise Stopped(f"{stop}: {said}", signum=stop.code - 128) from None
    if form != "table" and (score := found.score.text()):
        display.log(score.rstrip("\n"))
    found.check()
    return 0


@dataclass
class Outcome:
    """What all rows together were: the score, and how many images could not be used."""

    score: Score
    images: int = 0
    bad: int = 0
    first: str = ""

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        self.images += 1
        self.score.add(answer)
        if answer.error is not None:
            self.bad += 1
            self.first = self.first or f"{shown(answer.item.path, 120)}: {shown(answer.error, 160)}"

    def check(self) -> None:
        """Raise DataError if there was no image, or some could not be used."""
        if not self.images:
            raise DataError("predict: no images were named. Name files or folders, or pipe paths.")
        if self.bad:
            raise DataError(
                f"predict: {self.bad:,} of {self.images:,} could not be used ({self.first}). "
                "Look at the rows with an error."
            )


def _predictions(
    asked: argparse.Namespace,
    classifier: Classifier,
    found: Outcome,
    bar: Callable[[int, int | None], None] | None,
    display: Display,
) -> Iterator[list[Prediction]]:
    """The rows, a batch at a time, counted in `found`."""

    def items() -> Iterator[inputs.Item]:
        return inputs.of_paths(asked.paths, classifier.classes, sys.stdin.buffer)

    total = None
    if bar and display.console.is_terminal and inputs.STDIN not in asked.paths:
        total = sum(1 for _ in items())
    answers = stream.answers(
        classifier, items(), flips=asked.test_flips, batch_size=asked.batch_size
    )
    with closing(answers):
        for batch in answers:
            for answer in batch:
                found.add(answer)
            yield [
                prediction(answer, classifier.classes, top=asked.top, threshold=asked.threshold)
                for answer in batch
            ]
            if bar:
                bar(found.images, total)


@contextmanager
def _output(out: Path | None, form: str, stdout: TextIO) -> Iterator[Callable[[str], None]]:
    """What writes a piece of text to the file, which is there when all is, or to `stdout`."""
    if out is None:
        yield lambda text: output.write(text, stdout)
        return
    errors = "surrogateescape" if form == "csv" else "backslashreplace"
    with growing.written(out) as append:
        yield lambda text: append(text.encode("utf-8", errors))


def _form(out: Path | None, stdout: TextIO) -> str:
    """The format where none is asked for: by the file's ending, or by whether a person reads it."""
    if out is None:
        return "table" if stdout.isatty() else "csv"
    if (ending := out.suffix.lower()) not in ENDINGS:
        known = ", ".join(ENDINGS)
        raise UsageError(f"--out ({out}): ends in none of {known}. Add --format.")
    return ENDINGS[ending]


def _refuse_to_replace(asked: argparse.Namespace) -> None:
    """Raise UsageError if --out is a file that is read."""
    if asked.out is None or not asked.out.exists():
        return
    out = os.path.realpath(asked.out)
    read = [os.path.realpath(path) for path in (asked.run, *asked.paths) if os.path.exists(path)]
    if out in read or out.startswith(os.path.join(os.path.realpath(asked.run), "")):
        raise UsageError(f"--out ({asked.out}): is read by this command. Name another file.")
