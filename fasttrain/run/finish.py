"""Writes everything after training: summary, profile, misclassified images, figures and page.

An error in the profile or the report does not fail a finished training. It is printed with the
command that repeats the work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from ..console.console import Display
from ..data import Data, content
from ..engine.build import Built
from ..engine.state import Run
from ..errors import DataError, FasttrainError
from ..explain import explain, one_image
from ..explain.subject import Subject, open_classifier, open_run
from ..predict.classifier import Classifier
from ..report import figures, html
from ..report.read import read
from ..report.words import sure
from ..storage.encode import for_shell
from ..storage.paths import path
from . import source
from .observe import Observers
from .session import Session
from .summary import headline, write_summary


def report_run(
    session: Session,
    data: Data,
    built: Built,
    position: Run,
    observers: Observers,
    target: dict[str, float],
) -> None:
    """Write the summary, explain the best network, draw the report and print the headline."""
    display, run = session.display, session.folder.path
    best = observers.saver.best
    summarise = partial(write_summary, session, built, position, best, target, data)
    summarise(finished=False)
    with session.ledger.part("analysis"):
        if observers.profiling:
            profile = partial(observers.profiling.report, built, position)
            _attempt(profile, "record it again with --profile", display)
        explained = partial(explain_run, device=session.recipe.device, data=data, page=False)
        done = _attempt(
            partial(explained, run, display=display), _again_by("explain", run), display
        )
    session.signals.check()  # in case other code swallowed the exception of a signal
    summary = summarise(finished=True)
    session.tracker.end(summary)
    drawn = partial(draw_end, run, whole=not done, display=display)
    _attempt(drawn, _again_by("report", run), display)
    display.log(headline(summary, run))


def explain_run(
    run: str | os.PathLike[str],
    *,
    sample: str = "confident",
    image: int | Path | None = None,
    device: str = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    cam_layer: str | None = None,
    data: Data | None = None,
    page: bool = True,
    display: Display | None = None,
) -> None:
    """Explain a trained run: its mistakes, Grad-CAM, accuracy by class, figures, report.html.

    With `image`, an index into the test images (val, if there is no test) or the path of any image
    file, only that image is drawn, through all stages. `cache_dir` and `cam_layer` are those of the
    run's recipe, unless they are given. Without `page`, report.html is not written: a training run
    writes it later from its last summary.
    """
    run, display = path(run), display or Display()
    saved = read(run).recipe  # refuses a wrong path before searching for a checkpoint
    html.check_targets(run)
    cache = saved.get("cache_dir") if cache_dir is None else str(path(cache_dir))
    layer = saved.get("cam_layer") if cam_layer is None else cam_layer
    if isinstance(image, Path):
        classifier, _ = open_classifier(run, device=device, cam_layer=layer)
        display.log(str(_one_file(run, classifier, image)))
        return
    subject = open_run(
        run, device=device, cache_dir=cache, cam_layer=layer, data=data, log=display.log
    )
    if source.is_changed(saved, subject.recipe):
        display.log(f"the source of {subject.recipe.model} has changed since this run was trained")
    if image is not None:
        display.log(str(_one_image(run, subject, image)))
        return
    explain.explain(subject, run, sample=sample)
    if page:
        draw_report(run, display=display)
    else:
        figures.draw_all(run)


def draw_report(
    run: str | os.PathLike[str],
    *,
    names: Collection[str] = tuple(figures.FIGURES),
    display: Display | None = None,
) -> Path:
    """Redraw a run's figures and its report.html from the run directory alone."""
    run = path(run)
    html.check_targets(run)
    figures.draw_all(run, names=names)
    page = html.write(run)
    (display or Display()).log(f"report: {page}")
    return page


def draw_end(run: Path, *, whole: bool, display: Display) -> None:
    """Draw report.html and the figure of the last summary; with `whole`, all figures."""
    draw_report(run, names=tuple(figures.FIGURES) if whole else ("ledger",), display=display)


def _one_image(run: Path, subject: Subject, index: int) -> Path:
    guess, truth = explain.guess(subject, index)
    predicted, true = explain.layer_maps(subject, index, [guess, truth])
    file = run / "figures" / f"image-{index}.png"
    file.parent.mkdir(exist_ok=True)
    names = subject.data.classes
    title = f"{subject.split} image {index}: predicted {names[guess]}, true class {names[truth]}"
    rows = [("for the predicted class", predicted), ("for the true class", true)]
    figures.draw_layers(subject.analysed.images[index], rows, title=title, path=file)
    return file


def _one_file(run: Path, classifier: Classifier, image: Path) -> Path:
    """Draw any image file through all stages, for its two most probable classes."""
    try:
        pixels = content.pixels(content.of_file(str(image)), classifier.preprocessing)
    except OSError as error:
        pixels = error.strerror or str(error)
    if isinstance(pixels, str):
        raise DataError(f"--image ({image}): {pixels}. Name an image file.")
    found = one_image.likeliest(classifier, pixels)
    maps = one_image.layer_maps(classifier, pixels, [number for number, _ in found])
    named = [f"{classifier.classes[number]}, {sure(share)}" for number, share in found]
    rows = [(f"for {name}", each) for name, each in zip(named, maps, strict=True)]
    file = run / "figures" / f"image-of-{image.stem[:100]}.png"
    title = f"{image.name}: {' or '.join(named)}"
    return figures.draw_layers(pixels, rows, title=title, path=file)


def _attempt(task: Callable[[], object], advice: str, display: Display) -> bool:
    """Run `task` and return whether it succeeded; print a failure together with `advice`."""
    try:
        task()
    except Exception as problem:
        first = " ".join(str(problem).split()).rstrip(".") or "no more is known"
        kind = "" if isinstance(problem, FasttrainError) else f"{type(problem).__name__}: "
        display.warn(f"{kind}{first}. The training is done and saved; {advice}")
        return False
    return True


def _again_by(command: str, run: Path) -> str:
    return f"draw its report with: python -m fasttrain {command} {for_shell(run)}"
