"""Tells a run to Weights & Biases: online where a person is logged in, else offline.

An offline run lies in the run directory and writes nothing elsewhere. wandb's own variables
(WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, ...) hold.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import wandb

from .tracked import About

PROJECT = "fasttrain"
LOGIN = 30.0  # seconds for a server to answer, before the run is kept offline


class WandbRun:
    """An open run of wandb; the epoch is the axis of all charts."""

    def __init__(self, made: Any) -> None:
        self._run = made
        self.kept = {"id": made.id}
        made.define_metric("epoch")
        made.define_metric("*", step_metric="epoch")
        place = Path(made.dir).parent
        self.note = f"wandb, {made.url}"
        if made.offline:
            self.note = f"wandb, offline; send it with: wandb sync {place}"

    def epoch(self, row: dict[str, Any]) -> None:
        """Log a row of metrics.jsonl."""
        self._run.log({name: value for name, value in row.items() if value is not None})

    def end(self, summary: dict[str, Any]) -> None:
        """Add the numbers of summary.json to the run's summary and finish it."""
        plain = {name: value for name, value in summary.items() if not isinstance(value, dict)}
        self._run.summary.update(plain)
        self._finish(0)

    def stop(self) -> None:
        """Finish it as not complete."""
        self._finish(1)

    def _finish(self, code: int) -> None:
        self._run.finish(exit_code=code)
        wandb.teardown(code)  # only then its own process has written all


def start(about: About) -> WandbRun:
    """Open a run, or continue the one that is kept; offline without a login or a server."""
    own = about.run / "wandb"
    own.mkdir(exist_ok=True)
    for name in ("CACHE", "DATA", "ARTIFACT"):
        os.environ.setdefault(f"WANDB_{name}_DIR", str(own / name.lower()))
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to a server, offline too
    try:
        made = _init(about, mode=os.environ.get("WANDB_MODE"))
    except wandb.Error:
        made = _init(about, mode="offline")
    return WandbRun(made)


def _init(about: About, *, mode: str | None) -> Any:
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=os.environ.get("WANDB_NAME", about.title),
        dir=str(about.run),
        config=about.recipe,
        mode=mode,
        id=about.kept.get("id"),
        resume="allow",
        settings=wandb.Settings(console="off", init_timeout=LOGIN),
    )
