"""Captures and restores the state in a checkpoint, and checks whether a run may resume from it.

The draws are a function of (seed, epoch), so a position is two numbers. A resumed run gives the
same numbers as an uninterrupted one, also from the middle of an epoch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..data import Data
from ..data.origin import about
from ..engine import average, metrics, monitors
from ..engine.loop import read_metrics
from ..engine.state import Epoch, Run, random_state, set_random_state
from ..engine.step import Step
from ..errors import CheckpointError, UsageError
from ..optim.warm_up import AnySchedule
from ..parallel.group import Group
from ..recipe.datasets import is_path
from ..recipe.recipe import FIELDS, SOURCE, Recipe, flag
from . import source
from .ending import enough

# Fields that may differ when a run is resumed: they do not change what each epoch computes.
MACHINE = frozenset(name for name, field in FIELDS.items() if field.metadata["group"] == "machine")
MAY_CHANGE = MACHINE - {"seed"} | {
    *("data_dir", "cache_dir", "loader", "cam_layer", "track"),
    *("target_accuracy", "stop_after", "max_time"),
}
ADAM = ("step", "exp_avg", "exp_avg_sq")  # the state that torch keeps of each weight


def capture(
    run: Run,
    step: Step,
    schedule: AnySchedule,
    recipe: Recipe,
    group: Group | None = None,
    *,
    data: Data | None = None,
) -> dict[str, Any]:
    """Return everything that the rest of the run depends on; tensors are not copied.

    All processes of a group call it; the running sums have one row per process. Raises Diverged in
    the middle of an epoch if they are not finite, since they were not checked before.
    """
    group = group or Group()
    if run.sums is not None:
        read_metrics(step, run, group.sum)
    state: dict[str, Any] = {"epoch": run.epoch, "step": run.step, "seconds": run.seconds}
    state |= {"data_wait_seconds": run.data_wait_seconds, "eval_seconds": run.eval_seconds}
    state["sums"] = None if run.sums is None else group.gather(run.sums.cpu())
    state["history"] = [monitors.plain(row) for row in run.history]
    return {
        "progress": [run.epoch, run.step],
        "run": state,
        "step": step.state_dict(),
        "schedule": schedule.state_dict(),
        **random_state(step.device),
        "recipe": recipe.as_dict(),
        "processes": group.world,
        **({} if data is None else {"data": about(data)}),
    }


def best_of(state: dict[str, Any]) -> dict[str, Any]:
    """Return the contents of best.pt: a captured state's better weights, and their accuracy."""
    row, monitor = history_of(state)[-1], state["recipe"].get("monitor", "accuracy")
    averaged, step = monitors.averaged_is_better(row, monitor), state["step"]
    return {
        "progress": state["progress"],
        "model": average.weights(step["average"]) if averaged else step["model"],
        "test_accuracy": monitors.better(row, monitor).test_accuracy,
        "recipe": state["recipe"],
        **{name: state[name] for name in ("data", "choices", SOURCE) if name in state},
    }


def history_of(state: dict[str, Any]) -> list[Epoch]:
    """Return the finished epochs of a captured state."""
    return [Epoch(*row) for row in state["run"]["history"]]


def restore(
    state: dict[str, Any],
    step: Step,
    schedule: AnySchedule,
    group: Group | None = None,
) -> Run:
    """Restore a captured state and return its Run; CheckpointError if the network differs."""
    try:
        step.load_state_dict(state["step"])
        _check_optimizer(step.optimizer)
        schedule.load_state_dict(state["schedule"])
        set_random_state(state, step.device)
        run = Run(**{**state["run"], "history": history_of(state)})
        if run.sums is not None:
            run.sums = metrics.zeros(step.device).copy_(_sums(run, group or Group()))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(
            f"checkpoint ({type(error).__name__}: {first}): does not fit this network. "
            "Resume it with the recipe that made it."
        ) from None
    return run


def check_form(state: dict[str, Any]) -> None:
    """Raise CheckpointError if a loaded checkpoint is not one of a run or its recipe is invalid."""
    try:
        parts = [state[name] for name in ("run", "step", "schedule", "recipe", "ledger")]
        run, rows = state["run"], history_of(state)
        numbers = [run["epoch"], run["step"], run["seconds"], *state["ledger"].values()]
        rates = [row.first_lr for row in rows if row.first_lr is not None]
        numbers += [*rates, *(value for row in rows for value in row if value is not None)]
        whole = all(isinstance(part, dict) for part in parts) and all(map(_is_number, numbers))
        if not whole or len(rows) != run["epoch"] or not isinstance(run["step"], int):
            raise ValueError("numbers")
        Recipe.saved(state["recipe"])
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise CheckpointError(
            f"checkpoint ({type(error).__name__}: {error}): not a checkpoint that a run "
            "can resume from. Resume a run directory, or its last.pt."
        ) from None


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0  # type: ignore


def _sums(run: Run, group: Group) -> Tensor:
    """Return this process's running sums; ValueError if the saved sums are invalid."""
    rows = metrics.current(torch.atleast_2d(run.sums), run.step)
    if rows.shape[1:] != (metrics.PLACES,):
        raise ValueError(f"the running sums have the shape {tuple(rows.shape)}")
    sums = group.own_row(rows).clone()
    sums[metrics.PER_PROCESS] *= group.world / len(rows)  # the saved world size may differ
    return sums


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError for a state whose shapes would make a fused update access other memory."""
    groups = optimizer.param_groups
    weights = {weight for group in groups for weight in group["params"]}
    needed = ADAM if isinstance(optimizer, torch.optim.Adam) else ()
    for weight, values in optimizer.state.items():
        found = {**dict.fromkeys(needed), **values} if weight in weights else {"state": None}
        for name, value in found.items():
            shape = () if name == "step" else weight.shape  # AdamW counts the steps
            if not isinstance(value, Tensor) or value.shape != shape:
                raise ValueError(f"{name} of the optimizer is not of its weight's shape")
    plain = (bool, int, float, type(None), tuple)  # the tuple is AdamW's own betas
    for name, value in (item for group in groups for item in group.items() if item[0] != "params"):
        if not isinstance(value, plain) and getattr(value, "shape", None) != ():
            raise ValueError(f"{name} of the optimizer is not a number")


def is_over(state: dict[str, Any] | None, recipe: Recipe) -> bool:
    """Return whether nothing is left to train after `state`; False at the start of a run."""
    if state is None:
        return False
    run = state["run"]
    stopped = run["step"] == 0 and enough(recipe, history_of(state), state["ledger"]["total"])
    return stopped or run["epoch"] >= recipe.epochs


def is_changed(state: dict[str, Any] | None, recipe: Recipe) -> bool:
    """Return whether a captured state has training left and was made by another recipe, or by
    another source of the user's own network."""
    if state is None or is_over(state, recipe):
        return False
    return Recipe.saved(state["recipe"]) != recipe or source.is_changed(state, recipe)


def check_changes(saved: Recipe, asked: Recipe, *, override: bool = False) -> None:
    """Raise UsageError, with old and new value, if `asked` would change the result of `saved`.

    `override` allows this, except for the scheduler and its warm-up, since a position in one
    schedule means nothing in another, for AdamW in place of SGD or the reverse, since their states
    differ, and for the recipe's name, which would label epochs of a different recipe.
    """
    for name in FIELDS:
        old, new = getattr(saved, name), getattr(asked, name)
        other = name == "optimizer" and "adamw" in (old, new)
        never = name in ("recipe", "scheduler", "warmup") or other
        if name == "dataset" and is_path(old) and is_path(new):
            continue  # own images may have moved; they are compared once read
        free = name in MAY_CHANGE and not other
        if not free and old != new and (never or not override):
            ways = "or start a new run with --out"
            ways = ways if never else "start a new run with --out, or add --override"
            raise UsageError(
                f"{flag(name)} ({new}): the run to be resumed has {old}; another value "
                f"would train something else. Leave it out, {ways}."
            )
