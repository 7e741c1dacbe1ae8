"""The command `train`: one run or a series of them, new or resumed, in one process or several.

What was asked for is settled before torch is imported; of several processes by the first one.
"""

from __future__ import annotations

from pathlib import Path

from ..recipe.recipe import make
from .asked import Asked, asked
from .call import BEGAN, Call


def train(call: Call) -> None:
    """Train a run or a series of runs, new or resumed."""
    alone = call.place.world == 1
    wanted = asked(call.options, call.given, call.place) if alone else None
    from ..parallel.distributed import joined
    from ..run.train import train

    display, options = call.display(), call.options
    if wanted and wanted.runs:
        _train_runs(call, wanted)
        return
    with joined(call.place, device=str(call.given.get("device", "auto"))) as group:
        if wanted is None:  # rank 0 looks for all: the others might find what it has made
            mine = tuple(asked(options, call.given, call.place)) if group.first else None
            wanted = Asked(*group.broadcast(mine))
        resumed = Path(wanted.resumed) if wanted.resumed else None
        if options.resume is not None and resumed is None:
            display.log("nothing to resume: starting a new run")
        train(
            make(wanted.given),
            out=options.out,
            overwrite=options.overwrite,
            continued=resumed,
            override=options.override and resumed is not None,
            profile=options.profile,
            display=display,
            group=group,
            command=call.line,
            began=BEGAN,
        )


def _train_runs(call: Call, wanted: Asked) -> None:
    from .repeat import train_runs

    options, display = call.options, call.display()
    resumed = Path(wanted.resumed) if wanted.resumed else None
    if options.resume is not None and resumed is None:
        display.log("nothing to resume: starting a new series")
    train_runs(
        make(wanted.given),
        wanted.runs,
        out=options.out,
        overwrite=options.overwrite,
        continued=resumed,
        override=options.override and resumed is not None,
        profile=options.profile,
        display=display,
        command=call.line,
    )
