"""What every `auto` of a Recipe means before anything is measured, or once it is recorded in a run.

A run that is resumed trains as it did before, whatever a measurement would say by now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..data import Data
from ..errors import EnvironmentProblem
from ..loaders import dali
from ..machine import auto, environment
from ..machine.auto import NOT_MEASURED, Choice
from ..parallel.group import Group
from ..parallel.launch import local_batch
from ..recipe.named import MODELS
from ..recipe.recipe import FIELDS, Recipe
from .candidates import WORDS
from .tune import Tuned

LOADERS = ("dali", "resident", "kernel")
NAMES = (*WORDS, "loader")
KEPT = "as the run began"
# Fields that change neither what a step computes nor how fast.
NO_MATTER = {"recipe", "epochs", "lr", "init", "scheduler", "patience", "factor", "threshold"}
NO_MATTER |= {"monitor", "warmup"}
MACHINE = ("amp", "compile", "graphs", "optimizer", "deterministic", "loader")


def chosen_by_rule(
    recipe: Recipe, device: torch.device, group: Group, recorded: Mapping[str, str]
) -> dict[str, Choice]:
    """The Choice for each of NAMES: what is asked for, else `recorded`, else by the rule.

    What was recorded on another machine and is not to be had here is left, and that is said.
    """
    rules: dict[str, Callable[[str], Choice]] = {
        "amp": lambda asked: auto.amp(asked, device),
        "compile": lambda asked: auto.compiled(asked, device),
        "graphs": lambda asked: auto.graphs(
            asked,
            device,
            optimizer=recipe.optimizer,
            world=group.world,
            known=recipe.model in MODELS,
        ),
        "optimizer": lambda asked: auto.optimizer(asked, device, sgd=recipe.filters == "sgd"),
        "loader": lambda asked: auto.loader(asked, dali.available() if asked == "auto" else None),
    }
    found: dict[str, Choice] = {}
    for name in NAMES:
        if name == "convolutions":
            rule = auto.convolutions(device, found["amp"].value)
            packed = device.type == "cpu" and found["amp"].value == "bf16"
            kept = recorded.get(name)
            again = kept is not None and (packed or kept == "plain")
            found[name] = Choice(kept, KEPT) if again and kept else rule
            continue
        asked = getattr(recipe, name)
        if asked == "auto" and name in recorded:
            found[name] = _again(name, recorded[name], rules[name], device)
        else:
            found[name] = rules[name](asked)
    return found


def recorded(state: Mapping[str, Any] | None) -> dict[str, str] | None:
    """What a checkpoint recorded of the choices of its run; None without a checkpoint.

    Earlier releases recorded nothing and chose by rule, graphs never. Words of a later one are
    left out.
    """
    if state is None:
        return None
    found = state.get("choices")
    words = {**WORDS, "loader": LOADERS}
    given = found if isinstance(found, dict) else {"graphs": "off"}
    return {name: word for name, word in given.items() if word in words.get(name, ())}


def _again(name: str, value: str, rule: Callable[[str], Choice], device: torch.device) -> Choice:
    """What was recorded, if it is to be had here, else what the rule says."""
    try:
        missing = {
            "amp": lambda: value not in auto.precisions(device),
            "compile": lambda: rule(value).value != value,
            "graphs": lambda: rule(value).value != value,
            "optimizer": lambda: value == "kernel" and auto.kernel_problem(device) is not None,
            "loader": lambda: value not in _loaders(device),
        }[name]()
    except EnvironmentProblem:
        missing = True
    if not missing:
        return Choice(value, KEPT)
    choice = rule("auto")
    return Choice(choice.value, f"{choice.why}; the run began with {value}, which is not to be had")


def measured(rules: Mapping[str, Choice], found: Tuned) -> dict[str, Choice]:
    """What was found for the fields that are `auto`; where nothing was timed, the rule and why."""
    values = {**found.settings._asdict(), "loader": found.loader}
    choices = {}
    for name, why in found.whys.items():
        rule = rules[name].why
        holds = why.startswith(NOT_MEASURED) and rule != NOT_MEASURED
        choices[name] = Choice(values[name], f"{rule}; {why}" if holds else why)
    return choices


def loaders_here(recipe: Recipe, device: torch.device, chosen: Choice) -> tuple[str, ...]:
    """The loaders to choose from, the user's first: one if it is asked for."""
    if recipe.loader != "auto":
        return (chosen.value,)
    others = [name for name in _loaders(device) if name != chosen.value]
    return (chosen.value, *others)


def _loaders(device: torch.device) -> list[str]:
    missing = {"dali": dali.available(), "resident": None, "kernel": auto.kernel_problem(device)}
    return [name for name in LOADERS if missing[name] is None]


def facts(recipe: Recipe, model: nn.Module, data: Data, group: Group) -> dict[str, Any]:
    """What the speed of a recipe's step depends on: the machine, the versions and the training."""
    fields = {
        name: getattr(recipe, name)
        for name, field in FIELDS.items()
        if field.metadata["group"] in ("recipe", "augmentation") and name not in NO_MATTER
    }
    fields |= {name: getattr(recipe, name) for name in MACHINE}
    network = hashlib.sha256(repr(model).encode()).hexdigest()
    return {
        "fasttrain": __version__,
        "machine": environment.hardware(),
        "recipe": fields,
        "network": network,
        "side": data.side,
        "classes": len(data.classes),
        "batch": local_batch(recipe.batch_size, group.world),
        "processes": group.world,
    }
