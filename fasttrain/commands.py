"""The commands as functions: what `python -m fasttrain` does, without the printing.

Here it is decided which run directory is meant; what happens in it is training.py's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from . import checkpoint, environment, explain, resume
from .build import build, splits
from .data import CLASSES, Split
from .display import Display
from .errors import Stopped
from .ledger import Ledger
from .loop import Epoch
from .lr_finder import Sweep, find_lr
from .recipe import Recipe
from .reckoning import headline
from .report import compare, figures, html
from .report.read import read
from .rundir import RunDir, default_name, newest
from .signals import Signals
from .training import LOWEST_LR, Training, describe_sweep, range_test_steps

RUNS = Path("runs")


def train(
    recipe: Recipe,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    continued: Path | None = None,
    override: bool = False,
    profile: bool = False,
    display: Display | None = None,
    command: str = "fasttrain.train",
    began: float | None = None,
) -> list[Epoch]:
    """Train as `recipe` says into the run directory `out`, and return the history.

    `continued` is the run directory, or a checkpoint in one, to go on from; with `override` also
    under another recipe. With `profile` a few steps are recorded into its tensorboard folder.
    Raises what fasttrain.errors lists; Stopped after a signal, once the checkpoint is saved.
    """
    display = display or Display()
    ledger = Ledger(perf_counter() if began is None else began)
    ledger.parts["import"] = ledger.total
    with Signals() as signals, _run_dir(recipe, out, overwrite, continued) as folder:
        state = None
        if continued:
            state = _saved_state(folder, continued, recipe, display, override=override)
        if state and state["run"]["epoch"] >= recipe.epochs:
            display.say(f"{folder.path} is finished: nothing to do.")
            return [Epoch(*row) for row in state["run"]["history"]]
        folder.write_json("recipe.json", recipe.as_dict())
        folder.write_json("environment.json", {**environment.describe(), "command": command})
        training = Training(recipe, folder, display, signals, ledger, profile=profile)
        try:
            training.prepare(state)
            training.run()
        except Stopped as stop:
            raise _with_advice(stop, folder.path) from None
        training.sum_up()
        with ledger.part("analysis"):
            training.tell_profile()
            look_at(folder.path, device=recipe.device, halves=training.halves, display=display)
        display.say(headline(training.sum_up(), folder.path))
        return training.position.history


def look_at(
    run: Path,
    *,
    sample: str = "confident",
    image: int | None = None,
    device: str = "auto",
    halves: tuple[Split, Split] | None = None,
    display: Display | None = None,
) -> None:
    """Explain a trained run: its mistakes, Grad-CAM, accuracy by class, figures, report.html.

    With `image`, the index of a test image, only that one is drawn, through all four stages.
    """
    display = display or Display()
    read(run)  # a wrong path is said before a checkpoint is looked for
    subject = explain.open_run(run, device=device, splits=halves, say=display.say)
    if image is not None:
        display.say(str(_one_image(run, subject, image)))
        return
    explain.explain(subject, run, sample=sample)
    rebuild(run, display=display)


def rebuild(run: Path, *, display: Display | None = None) -> Path:
    """Draw a run's figures and its report.html anew, from the run directory alone."""
    figures.draw_all(run)
    page = html.write(run)
    (display or Display()).say(f"report: {page}")
    return page


def compare_runs(runs: list[Path], *, page: Path, display: Display | None = None) -> None:
    """Say how several runs differ, in a table and as a page of curves."""
    display = display or Display()
    display.say(compare.compare(runs))
    display.say(f"page: {compare.write_page(runs, page)}")


def _one_image(run: Path, subject: explain.Subject, index: int) -> Path:
    guess, truth = explain.guess(subject, index)
    predicted, true = explain.layer_maps(subject, index, [guess, truth])
    path = run / "figures" / f"image-{index}.png"
    path.parent.mkdir(exist_ok=True)
    title = f"test image {index}: predicted {CLASSES[guess]}, true class {CLASSES[truth]}"
    figures.draw_layers(subject.test.images[index], predicted, true, title=title, path=path)
    return path


def search_lr(recipe: Recipe, *, display: Display | None = None) -> Sweep:
    """The range test alone, on the Step and Loader that `recipe` would train with."""
    display = display or Display()
    train, test = splits(recipe, say=display.say, bar=display.bar)
    built = build(recipe, train, test)
    steps = range_test_steps(recipe, built)
    with display.steps("range test", steps) as show:
        sweep = find_lr(built.step, built.train, low=LOWEST_LR, steps=steps, on_step=[show])
    display.say(describe_sweep(sweep))
    return sweep


def run_to_continue(asked: Path | None, out: Path | None) -> Path | None:
    """The run directory or checkpoint that --resume means; None at a first launch."""
    if asked:
        return asked
    if out:
        return out if (out / "recipe.json").exists() else None
    return newest(RUNS)


@contextmanager
def _run_dir(
    recipe: Recipe, out: Path | None, overwrite: bool, continued: Path | None
) -> Iterator[RunDir]:
    if continued:
        opened = RunDir.resume(out or _folder_of(continued))
    else:
        path = out or RUNS / default_name(recipe.recipe, datetime.now())
        opened = RunDir.create(path, overwrite=overwrite)
    with opened as folder:
        yield folder


def _folder_of(asked: Path) -> Path:
    return asked if asked.is_dir() else asked.parent.parent


def _saved_state(
    folder: RunDir, continued: Path, recipe: Recipe, display: Display, *, override: bool
) -> dict[str, Any] | None:
    if continued.is_dir():
        state, notes = folder.checkpoints.latest()
        for note in notes:
            display.say(note)
    else:
        state = checkpoint.load(continued)
    if state is None:
        display.say(f"{folder.path} has no checkpoint yet: starting at its beginning")
        return None
    resume.refuse_foreign(state)
    if not override:
        resume.refuse_changes(Recipe(**state["recipe"]), recipe)
    done = state["run"]
    display.say(f"resuming {folder.path} after epoch {done['epoch']}, step {done['step']}")
    return state


def _with_advice(stop: Stopped, path: Path) -> Stopped:
    advice = f"{stop}: saved. Resume with: python -m fasttrain --resume {path}"
    return Stopped(advice, signum=stop.code - 128)
