"""The commands as functions: what `python -m fasttrain` does, without the printing.

Here it is decided which run directory is meant; what happens in it is training.py's.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from time import perf_counter

from ..console.console import Display
from ..data import Data
from ..engine.build import build, splits
from ..engine.loop import Epoch
from ..engine.lr_finder import Sweep
from ..errors import FasttrainError, Stopped, UsageError
from ..explain import explain
from ..machine import auto, environment, memory
from ..parallel.distributed import joined
from ..parallel.group import Group
from ..parallel.launch import local_batch
from ..parallel.signals import Signals
from ..recipe.recipe import Recipe
from ..report import compare, figures, html
from ..report.read import read
from ..run import opening, resume
from ..run.bystander import NullRunDir
from ..run.find_lr import range_test
from ..run.ledger import Ledger
from ..run.rundir import RunDir
from ..run.summary import headline
from ..run.training import Training
from ..storage.encode import for_shell
from . import values


def train(
    recipe: Recipe,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    continued: str | os.PathLike[str] | None = None,
    override: bool = False,
    profile: bool = False,
    display: Display | None = None,
    group: Group | None = None,
    command: str = "fasttrain.train",
    began: float | None = None,
    series: Path | None = None,
    begun: Callable[[], None] = lambda: None,
) -> list[Epoch]:
    """Train as `recipe` says into the run directory `out`, and return the history.

    `continued` is the run directory, or a checkpoint in one, to go on from; with `override` also
    under another recipe. With `profile` a few steps are recorded into its tensorboard folder.
    `series` is the folder of the series that the run belongs to: it is what is resumed. `begun` is
    called when data, device and rate are there, before the first step.
    Under torchrun it is joined with the other processes, unless they have joined `group` before.
    Raises what fasttrain.errors lists; Stopped after a signal, once the checkpoint is saved.
    """
    if continued is None and override:
        raise UsageError("--override: goes with --resume. Add it, or leave --override out.")
    if continued is not None and overwrite:
        raise UsageError("--overwrite: a run is resumed or replaced. Leave one of them out.")
    out, continued = values.some_path(out), values.some_path(continued)
    display = display or Display()
    ledger = Ledger(perf_counter() if began is None else began)
    ledger.parts["import"] = ledger.total
    with Signals() as signals, nullcontext(group) if group else joined() as group:
        local_batch(recipe.batch_size, group.world)  # refused before anything is touched
        rows = opening.finished(continued, recipe, display, group, override=override)
        if rows is not None:
            return rows
        with opening.run_dir(recipe, out, overwrite, continued, group) as folder:
            try:
                state = opening.saved_state(
                    folder, continued, recipe, display, group, override=override
                )
                folder.announce(recipe.as_dict())
                about = {"command": command, "processes": group.world}
                training = Training(
                    recipe, folder, display, signals, ledger, group, profile=profile
                )
                with memory.reported(recipe.batch_size, auto.device(recipe.device)):
                    training.prepare(state)
                    if not (state and resume.is_over(state, recipe)):
                        folder.reopen()
                    opening.begin(
                        folder,
                        recipe,
                        {**environment.describe(), **about},
                        history=training.position.history,
                        sweep=training.sweep,
                        data=training.data,
                    )
                    begun()
                    training.run()
                group.dissolve()  # the report may take minutes, and needs one process
                if not group.first:
                    return training.position.history
                training.sum_up()
                with ledger.part("analysis"):
                    _tried(training.report_profile, "record it again with --profile", display)
                    look = partial(explain_run, device=recipe.device, data=training.data)
                    look = partial(look, folder.path, display=display, page=False)
                    seen = _tried(look, _command("explain", folder.path), display)
                signals.check()  # in case something swallowed what a signal raised
                summary = training.sum_up(finished=True)
                end = partial(draw_end, folder.path, whole=not seen, display=display)
                _tried(end, _command("report", folder.path), display)
            except Stopped as stop:
                raise _with_advice(stop, folder, series or folder.path) from None
            display.log(headline(summary, folder.path))
            return training.position.history


def explain_run(
    run: str | os.PathLike[str],
    *,
    sample: str = "confident",
    image: int | None = None,
    device: str = "auto",
    data: Data | None = None,
    page: bool = True,
    display: Display | None = None,
) -> None:
    """Explain a trained run: its mistakes, Grad-CAM, accuracy by class, figures, report.html.

    With `image`, the index of a test image, only that one is drawn, through all four stages. A
    training leaves out the `page` until it has its last summary.
    """
    run, display = values.path(run), display or Display()
    read(run)  # a wrong path is said before a checkpoint is looked for
    html.refuse(run)
    subject = explain.open_run(run, device=device, data=data, log=display.log)
    if image is not None:
        display.log(str(_one_image(run, subject, image)))
        return
    explain.explain(subject, run, sample=sample)
    if page:
        rebuild(run, display=display)
    else:
        figures.draw_all(run)


def draw_end(run: Path, *, whole: bool, display: Display) -> None:
    """Draw what shows a run's last summary, or the `whole` of its figures and its page."""
    rebuild(run, names=tuple(figures.FIGURES) if whole else ("ledger",), display=display)


def rebuild(
    run: str | os.PathLike[str],
    *,
    names: Collection[str] = tuple(figures.FIGURES),
    display: Display | None = None,
) -> Path:
    """Draw a run's figures and its report.html anew, from the run directory alone."""
    run = values.path(run)
    html.refuse(run)
    figures.draw_all(run, names=names)
    page = html.write(run)
    (display or Display()).log(f"report: {page}")
    return page


def compare_runs(
    runs: Sequence[str | os.PathLike[str]],
    *,
    page: str | os.PathLike[str],
    display: Display | None = None,
) -> None:
    """Say how several runs differ, in a table and as a page of curves."""
    found, page = [values.path(run) for run in runs], values.path(page)
    display = display or Display()
    compare.refuse(page)
    display.log(compare.compare(found))
    display.log(f"page: {compare.write_page(found, page)}")


def _one_image(run: Path, subject: explain.Subject, index: int) -> Path:
    guess, truth = explain.guess(subject, index)
    predicted, true = explain.layer_maps(subject, index, [guess, truth])
    classes = subject.data.classes
    path = run / "figures" / f"image-{index}.png"
    path.parent.mkdir(exist_ok=True)
    title = f"test image {index}: predicted {classes[guess]}, true class {classes[truth]}"
    figures.draw_layers(subject.test.images[index], predicted, true, title=title, path=path)
    return path


def search_lr(
    recipe: Recipe, *, display: Display | None = None, group: Group | None = None
) -> Sweep:
    """The range test alone, on the Step and Loader that `recipe` would train with."""
    display, group = display or Display(), group or Group()
    with group.first_on_node(), display.counted() as counted:
        data = splits(recipe, log=display.log, bar=display.bar, counted=counted)
    built = build(recipe, data, group)
    return range_test(recipe, built, display, group)


def _tried(task: Callable[[], object], advice: str, display: Display) -> bool:
    """Whether what comes after a training succeeds. What fails is said, and how to do it again:
    the training is done and saved, and no fault of its report makes a failed one of it."""
    try:
        task()
    except Exception as problem:
        first = " ".join(str(problem).split()).rstrip(".") or "no more is known"
        kind = "" if isinstance(problem, FasttrainError) else f"{type(problem).__name__}: "
        said = f"fasttrain: warning: {kind}{first}. The training is done and saved; {advice}"
        if display.console.quiet:
            warnings.warn(said, stacklevel=2)
        else:
            display.log(said)
        return False
    return True


def _command(name: str, run: Path) -> str:
    return f"draw its report with: python -m fasttrain {name} {for_shell(run)}"


def _with_advice(stop: Stopped, folder: RunDir | NullRunDir, resumed: Path) -> Stopped:
    if folder.replaces:
        advice = f"{folder.path} is as it was: nothing of the new run to save yet. Start it again."
    else:
        there = (folder.path / "checkpoints" / "last.pt").exists()
        saved = "saved" if there else "nothing to save yet"
        advice = f"{saved}. Resume with: python -m fasttrain --resume {for_shell(resumed)}"
    return Stopped(f"{stop}: {advice}", signum=stop.code - 128)
