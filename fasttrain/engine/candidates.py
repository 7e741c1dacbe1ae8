"""The ways to run a step that are worth timing on a machine, and in which order.

They are plain data and pure functions, so that what a GPU would try can be tested without one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import nn

from ..machine import auto
from ..machine.auto import LAUNCHES, NOT_MEASURED, Choice
from ..models.packed_conv import packable
from ..recipe.recipe import Recipe

# The words of each field, the simplest first.
WORDS: dict[str, tuple[str, ...]] = {
    "amp": ("off", "bf16", "fp16"),
    "convolutions": ("plain", "packed"),
    "compile": ("off", "on"),
    "graphs": ("off", "on"),
    "optimizer": ("torch", "kernel", "apex", "adamw"),
}
COLD_COMPILE = 60.0  # seconds; 30 on a CPU, where it gains nothing
MOST_SAVED = 0.5  # of a step, by compiling
TIE = 1.02  # runs whose totals differ by less are equally fast
# The same where a part of the batch was timed: packed convolutions of ResNet18 took 0.97 of plain
# ones on 32 images and 1.03 on 128 (two cores of an AMD EPYC without AMX; n = 3 and 7).
TIE_OF_PARTS = 1.05
Space = Mapping[str, Sequence[str]]
"""The words that each field of Settings may have."""


class Settings(NamedTuple):
    """How a step is run: a word of WORDS for each field."""

    amp: str = "off"
    convolutions: str = "plain"
    compile: str = "off"
    graphs: str = "off"
    optimizer: str = "torch"

    @property
    def simplicity(self) -> tuple[int, ...]:
        """Lower is simpler."""
        return tuple(WORDS[name].index(word) for name, word in self._asdict().items())


class Row(NamedTuple):
    """What is known of a candidate: seconds a step, the median of `n`, or `why` there are none.

    With seconds `why` says on what part of a batch they were measured, if it was not whole.

    `setup` is what the first step took longer, where it compiles or captures.
    """

    seconds: float | None = None
    n: int = 0
    setup: float = 0.0
    why: str = ""


Table = dict[Settings, Row]


def settings(chosen: Mapping[str, Choice]) -> Settings:
    """The Settings among the choices of a run."""
    return Settings(*(chosen[name].value for name in Settings._fields))


def space(
    recipe: Recipe, device: torch.device, model: nn.Module, chosen: Mapping[str, Choice]
) -> dict[str, tuple[str, ...]]:
    """What may be chosen by measuring: several words for a field that is `auto`, else one."""
    found: dict[str, tuple[str, ...]] = {name: (chosen[name].value,) for name in Settings._fields}
    if recipe.amp == "auto":
        found["amp"] = auto.precisions(device)
    if device.type == "cpu":
        if packable(model) and "bf16" in found["amp"]:
            found["convolutions"] = WORDS["convolutions"]
        return found
    for name in ("compile", "graphs"):
        if chosen[name].why in (NOT_MEASURED, LAUNCHES):
            found[name] = WORDS[name]
    if chosen["optimizer"].why == NOT_MEASURED:
        found["optimizer"] = ("torch", "kernel")
    return found


def stages(space: Space, rule: Settings) -> list[Callable[[Settings], list[Settings]]]:
    """What is timed one after the other: functions of the best so far, `rule` at first.

    Precision, packing and graphs are tried together, because one changes what another gains; the
    kernel and then the compiler with the best of them. An explicit `--compile on` is added after
    all: to compile every candidate would take minutes.
    """
    return [partial(_uncompiled, space), partial(_kernel, space), partial(_compiled, space)]


def _uncompiled(space: Space, rule: Settings) -> list[Settings]:
    rule = rule._replace(compile="off")
    names = ("amp", "convolutions", "graphs")
    made = [
        rule._replace(**dict(zip(names, words, strict=True)))
        for words in product(*(space[name] for name in names))
    ]
    made = [each for each in made if each.convolutions == "plain" or each.amp == "bf16"]
    return sorted(made, key=lambda each: (each != rule, each.amp != rule.amp, each.simplicity))


def _kernel(space: Space, best: Settings) -> list[Settings]:
    words = [word for word in space["optimizer"] if word != best.optimizer]
    return [best._replace(optimizer=word) for word in words]


def _compiled(space: Space, best: Settings) -> list[Settings]:
    if len(space["compile"]) == 1:
        return []
    return [best._replace(compile="on", graphs=word) for word in space["graphs"]]


def timed(table: Table) -> Table:
    """The part of `table` that has times."""
    return {each: row for each, row in table.items() if row.seconds is not None}


def may_pay(table: Table, steps: int) -> bool:
    """Whether a compiled step might finish a run of `steps` steps first, its compiling included.

    How much it saves is not known before a minute is spent on it: half of every step is the most.
    """
    seconds = [row.seconds for row in table.values() if row.seconds is not None]
    return bool(seconds) and steps * min(seconds) * MOST_SAVED > COLD_COMPILE


def choose(table: Table, *, steps: int, prefer: str = "off") -> Settings:
    """The candidate that finishes a run of `steps` steps first, setting it up included.

    Of those within a tie it is one whose `compile` is `prefer`, and then the simplest.
    """
    rows = timed(table)
    totals = {each: total(row, steps) for each, row in rows.items()}
    tie = TIE_OF_PARTS if any(row.why for row in rows.values()) else TIE
    near = [each for each in totals if totals[each] <= tie * min(totals.values())]
    return min(near, key=lambda each: (each.compile != prefer, each.simplicity))


def total(row: Row, steps: int) -> float:
    """The seconds of a run of `steps` steps; infinite for a row without a time."""
    return float("inf") if row.seconds is None else row.setup + steps * row.seconds


def why(name: str, table: Table, chosen: Settings, *, steps: int) -> str:
    """What decided a field of `chosen`: its time and the best one of every other word.

    `off` of graphs or compile is said as eager, of amp as float32.
    """
    mine = table[chosen]
    others: dict[str, list[tuple[Settings, Row]]] = {}
    for each, row in table.items():
        word = getattr(each, name)
        if word != getattr(chosen, name):
            others.setdefault(word, []).append((each, row))
    said, failed = [], []
    for word, rows in others.items():
        _, best = min(rows, key=lambda item: total(item[1], steps))
        if best.seconds is None:
            failed.append(f"{spoken(name, word)} {best.why}")
        else:
            setup = f" and {best.setup:.0f} s once" if best.setup >= 1 else ""
            said.append(f"{milliseconds(best.seconds)}{setup} {spoken(name, word)}")
    setup = f" and {mine.setup:.0f} s once" if mine.setup >= 1 else ""
    found = f"measured: {milliseconds(mine.seconds or 0.0)} ms a step{setup}"
    found += f" against {', '.join(said)}" if said else ""
    return "; ".join([found, *filter(None, [mine.why]), *failed])


def spoken(name: str, word: str) -> str:
    """A word of a field as a phrase."""
    phrases = {"amp": "in float32", "compile": "not compiled", "graphs": "without a graph"}
    phrase = {"amp": f"in {word}", "compile": "compiled", "graphs": "as a graph"}
    if name in phrases:
        return phrases[name] if word == "off" else phrase[name]
    return f"with {word}" if name == "optimizer" else word


def milliseconds(seconds: float) -> str:
    """Milliseconds with three digits."""
    return f"{1e3 * seconds:.3g}" if seconds < 0.9995 else f"{1e3 * seconds:.0f}"
