"""Imports the function that a flag names as MODULE:FUNCTION, from the current folder first.

A user's file can do anything, so each way in which it can fail becomes one clear error here.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from ..errors import UsageError

HERE = str(Path(__file__).parents[1])


def function(flag: str, name: str, *, returns: str) -> Callable[..., Any]:
    """The function FUNCTION of MODULE in `name`; UsageError, naming `flag`, if there is none.

    `returns` says for the error what the function has to return or do.
    """
    module = imported(flag, name)
    wanted = name.partition(":")[2]
    found = getattr(module, wanted, None)
    if found is None:
        near = difflib.get_close_matches(wanted, dir(module), n=1)
        hint = f"Did you mean {near[0]}?" if near else "Define it there."
        refuse(flag, name, f"{module.__name__} has no function {wanted}", hint)
    if not callable(found):
        why = f"{wanted} is a {type(found).__name__} and cannot be called"
        refuse(flag, name, why, f"Name a function that {returns}")
    return found


def imported(flag: str, name: str) -> ModuleType:
    """Import MODULE of `name`, from the current folder first, as `python -m` does."""
    wanted = name.partition(":")[0]
    folder = os.getcwd()
    if sys.path[:1] not in ([""], [folder]):
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(wanted)
    except ModuleNotFoundError as error:
        if error.name and (wanted == error.name or wanted.startswith(f"{error.name}.")):
            why = f"there is no module {error.name} in the current folder or among the packages"
            refuse(flag, name, why, "Start in the folder of the file, without its .py", error)
        what = f"Install {error.name} or mend the import"
        refuse(flag, name, f"importing {wanted} raised {said(error)}", what, error)
    except (Exception, SystemExit) as error:
        refuse(flag, name, f"importing {wanted} raised {said(error)}", "Mend the file", error)


def said(error: BaseException) -> str:
    """An exception in one line, with the place in the user's file where it was raised."""
    first = (str(error).splitlines() or [""])[0][:200]
    frames = traceback.extract_tb(error.__traceback__)
    here = os.getcwd()
    near = [a for a in frames if a.filename.startswith(here) and not a.filename.startswith(HERE)]
    place = f" ({os.path.basename(near[-1].filename)}, line {near[-1].lineno})" if near else ""
    return type(error).__name__ + (f": {first}" if first else "") + place


def refuse(
    flag: str, name: str, why: str, what: str, error: BaseException | None = None
) -> NoReturn:
    """Raise UsageError: why `name` cannot be used for `flag`, and what to do."""
    end = "" if what.endswith((".", "?")) else "."
    raise UsageError(f"{flag} ({name}): {why.rstrip('.')}. {what}{end}") from error
