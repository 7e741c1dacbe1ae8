"""What a checkpoint holds, and the rules for going on from one.

The draws are a function of (seed, epoch), so a position is two numbers and a resumed run gives the
numbers of an uninterrupted one, also from the middle of an epoch.
"""

from __future__ import annotations

from typing import Any

import torch

from .errors import CheckpointError, UsageError
from .loop import Epoch, Run
from .recipe import FIELDS, Recipe, flag
from .schedule import EveryStep, Plateau
from .step import Step

# Fields that may differ between a run and its continuation: they change how fast, not what.
MACHINE = frozenset(name for name, field in FIELDS.items() if field.metadata["group"] == "machine")
MAY_CHANGE = (MACHINE - {"seed"}) | {"data_dir", "loader", "target_accuracy", "max_time"}


def capture(run: Run, step: Step, schedule: Plateau | EveryStep, recipe: Recipe) -> dict[str, Any]:
    """Everything that the rest of the run depends on."""
    state: dict[str, Any] = {"epoch": run.epoch, "step": run.step, "seconds": run.seconds}
    state |= {"data_wait_seconds": run.data_wait_seconds, "eval_seconds": run.eval_seconds}
    state["sums"] = None if run.sums is None else run.sums.cpu()
    state["history"] = [list(row) for row in run.history]
    return {
        "progress": [run.epoch, run.step],
        "run": state,
        "step": step.state_dict(),
        "schedule": schedule.state_dict(),
        "rng": torch.get_rng_state(),
        "recipe": recipe.as_dict(),
    }


def capture_best(run: Run, step: Step, recipe: Recipe) -> dict[str, Any]:
    """The weights alone, with what they scored."""
    return {
        "progress": [run.epoch, run.step],
        "model": step.model.state_dict(),
        "test_accuracy": run.history[-1].test_accuracy,
        "recipe": recipe.as_dict(),
    }


def restore(state: dict[str, Any], step: Step, schedule: Plateau | EveryStep) -> Run:
    """Put a captured state back and return its Run; CheckpointError if it is of another network."""
    try:
        step.load_state_dict(state["step"])
        schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"])
        run = Run(**{**state["run"], "history": [Epoch(*row) for row in state["run"]["history"]]})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(
            f"checkpoint ({type(error).__name__}: {first}): does not fit this network. "
            "Resume it with the recipe that made it."
        ) from None
    if run.sums is not None:
        run.sums = run.sums.to(step.device)
    return run


def refuse_changes(saved: Recipe, asked: Recipe) -> None:
    """Raise UsageError, with old and new, if `asked` would train something else than `saved`."""
    for name in FIELDS:
        old, new = getattr(saved, name), getattr(asked, name)
        if name not in MAY_CHANGE and old != new:
            raise UsageError(
                f"{flag(name)} ({new}): the run to be resumed has {old}; another value "
                "would train something else. Leave it out, start a new run with --out, "
                "or add --override."
            )
