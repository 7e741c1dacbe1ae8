"""The command line: arguments in, exit status out.

Flags are parsed and checked before torch is imported, so `--help` and a typing error answer at
once. Every error that a person can make becomes one line on stderr.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from ..console.stdout import print_error
from ..errors import FasttrainError, ReportedElsewhere, Stopped, UsageError
from ..parallel import launch
from ..recipe.recipe import Scalar, make
from .commands import run
from .flags import read


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status. Only a bug of ours shows a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    given: dict[str, Scalar] = {}
    try:
        try:
            name, options, given = read(arguments)
        except UsageError as error:
            raise error if launch.is_reporter() else ReportedElsewhere(error.code) from None
        command = f"python -m fasttrain {shlex.join(arguments)}".rstrip()
        return run(name, options, given, command=command)
    except ReportedElsewhere as error:
        return error.code
    except (FasttrainError, Stopped) as error:
        return _report_error(str(error), error.code)
    except (RuntimeError, MemoryError) as error:
        from ..machine import auto, memory

        recipe = make(given)
        if not memory.is_out_of_memory(error, recipe.batch_size):
            raise
        short = memory.out_of_memory(recipe.batch_size, auto.current_device(recipe.device))
        return _report_error(str(short), short.code)


def _report_error(message: str, code: int) -> int:
    print_error(f"fasttrain: error: {message}")
    return code
