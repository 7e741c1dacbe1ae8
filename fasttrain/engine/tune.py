"""Finds the fastest way to train on this machine by timing it, or remembers what it has found.

Rules written for hardware that nobody tried are guesses. What is chosen decides the last bits of a
run, so it is said, recorded in the run, and kept when the run is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..machine import remembered
from .candidates import WORDS, Row, Settings, Table, choose, may_pay, timed, why
from .loader_times import LoaderTimes, fastest, time_loaders
from .step import Step
from .trial import LONGEST, OUT_OF_TIME, Trial, decides, limit, too_short
from .turns import Turns

LONGER = 1.5  # times the seconds that were allowed, from which what had no time is timed again


class Measured(NamedTuple):
    """What was measured, and in how many seconds at most."""

    table: Table
    loaders: LoaderTimes | None
    allowed: float


class Tuned(NamedTuple):
    """What is chosen, why, and the step that was timed with it, compiled or captured already.

    `whys` has the names of the fields that were `auto`; `table` is the measurement in plain values.
    """

    settings: Settings
    loader: str
    whys: dict[str, str]
    table: dict[str, Any]
    step: Step | None = None


def tune(
    trial: Trial,
    *,
    mode: str = "cached",
    folder: Path | None = None,
    log: Callable[[str], object] = lambda line: None,
    progressed: Callable[[], object] = lambda: None,
) -> Tuned | None:
    """Choose what finishes the run of `trial` first; None if there is nothing to choose.

    In `mode` "cached" what `folder` holds for these facts is used, in "always" everything is
    measured. It is measured on the network, the loaders and the batch of the run, within 3 % of the
    run and 15 s beside compiling, and undone bit for bit. A run too short for that keeps the rule,
    unless the folder knows better. All processes of a group choose the same.
    """
    asked = [name for name, words in trial.space.items() if len(words) > 1]
    if not asked and len(trial.loaders) < 2:
        return None
    facts = trial.facts()
    kept = remembered.read(folder, facts) if mode == "cached" and trial.group.first else None
    found = parsed(trial.group.broadcast(kept))
    if found and is_enough(trial, found):
        return _chosen(trial, found, ", remembered")
    if too_short(trial):
        why = "not measured: the run is too short"
        named = [*asked, *(["loader"] if len(trial.loaders) > 1 else [])]
        return Tuned(trial.rule, trial.loaders[0], dict.fromkeys(named, why), {})
    log(f"  measuring what is fastest here, at most {LONGEST:.0f} s (--tune off: by rule)")
    turns = Turns(trial, progressed=progressed)
    table = turns.run()
    if not decides(trial, table):
        return _chosen(trial, Measured(table, None, 0.0), "")
    best = choose(table, steps=trial.steps, prefer=preferred(trial))
    step, loaders = turns.made.get(best), None
    if len(trial.loaders) > 1:
        beside, seconds = step or trial.make(best), table[best].seconds or math.inf
        loaders = time_loaders(trial, best, beside, seconds, left=turns.seconds_left())
    found = Measured(table, loaders, limit(trial, table))
    if trial.group.first and (problem := remembered.write(folder, facts, plain(found))):
        log(f"  not remembered for the next run: {problem}")
    return _chosen(trial, found, "")._replace(step=step)


def preferred(trial: Trial) -> str:
    """The word of `compile` that wins a tie: on a GPU a compiled step."""
    return "on" if trial.device.type == "cuda" else "off"


def is_enough(trial: Trial, found: Measured) -> bool:
    """Whether a remembered measurement answers for this run.

    A longer run may have time for what an earlier one did not time, or be long enough to compile.
    """
    table, space, compiles = found.table, trial.space, len(trial.space["compile"]) > 1
    words = [item for each in timed(table) for item in each._asdict().items()]
    known = all(word in space[name] or (name, word) == ("compile", "off") for name, word in words)
    if not decides(trial, table) or not known:
        return False
    if too_short(trial):
        return True
    if compiles and may_pay(table, trial.steps) and not any(e.compile == "on" for e in table):
        return False
    unfinished = any(row.why == OUT_OF_TIME for row in table.values())
    return not unfinished or limit(trial, table) <= LONGER * found.allowed


def _chosen(trial: Trial, found: Measured, how: str) -> Tuned:
    """Choose by a measurement; `how` is what to say of it."""
    table, loaders, _ = found
    asked = [name for name, words in trial.space.items() if len(words) > 1]
    if not decides(trial, table):
        reasons = "; ".join(dict.fromkeys(row.why for row in table.values() if row.why))
        whys = dict.fromkeys(asked, f"not measured: {reasons}")
        return Tuned(trial.rule, trial.loaders[0], whys, plain(found))
    best = choose(table, steps=trial.steps, prefer=preferred(trial))
    whys = {name: why(name, table, best, steps=trial.steps) for name in asked}
    if "compile" in whys and not any(each.compile == "on" for each in table):
        seconds = trial.steps * (table[best].seconds or 0.0)
        whys["compile"] = f"{seconds:.0f} s of steps are too few to pay back a minute of compiling"
    loader = trial.loaders[0]
    if loaders is not None:
        loader, whys["loader"] = fastest(loaders, trial.loaders)
    whys = {name: text.replace("measured", f"measured{how}", 1) for name, text in whys.items()}
    best = best._replace(compile="on") if trial.rule.compile == "on" else best
    return Tuned(best, loader, whys, plain(found))


def plain(found: Measured) -> dict[str, Any]:
    """A measurement in plain values, for a file."""
    rows = [{**each._asdict(), **row._asdict()} for each, row in found.table.items()]
    loaders = None if found.loaders is None else found.loaders._asdict()
    return {"steps": rows, "loaders": loaders, "allowed": found.allowed}


def parsed(kept: Any) -> Measured | None:
    """The measurement that `plain` wrote; None for anything else."""
    try:
        table = dict(_row(dict(row)) for row in kept["steps"])
        loaders = None if kept["loaders"] is None else LoaderTimes(**kept["loaders"])
        numbers = [kept["allowed"]]
        if loaders:
            numbers += [loaders.alone, loaders.step, *loaders.beside.values()]
            if not all(isinstance(text, str) for text in loaders.why.values()):
                return None
        return Measured(table, loaders, kept["allowed"]) if all(map(_is_time, numbers)) else None
    except (TypeError, KeyError, ValueError, AttributeError):
        return None


def _row(found: dict[str, Any]) -> tuple[Settings, Row]:
    """One row of a table; ValueError unless it is sound."""
    each = Settings(**{name: found.pop(name) for name in Settings._fields})
    row = Row(**found)
    sound = all(word in WORDS[name] for name, word in each._asdict().items())
    sound = sound and isinstance(row.why, str) and (row.seconds is None or _is_time(row.seconds))
    if not sound or type(row.n) is not int or not _is_time(row.setup):
        raise ValueError("a row of another program")
    return each, row


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e9  # type: ignore[operator]
