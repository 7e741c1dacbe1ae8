"""The stages of `make gpu`, in their order, with the shares of the time that each may take.

Standard library only: what must be known before a stage runs needs no torch.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

NEEDS = ("torch", "numpy", "PIL", "filelock", "platformdirs", "safetensors")
RUN_NEEDS = (*NEEDS, "rich", "tensorboard", "matplotlib")


class Stage(NamedTuple):
    """A stage: its name, what it measures, its share of the time, and the packages it needs."""

    name: str
    what: str
    share: float
    needs: tuple[str, ...] = ()


# Shares of about 9 minutes. What a stage leaves over goes to those after it.
STAGES = (
    Stage("machine", "what the machine is", 5, ("torch", "numpy")),
    Stage("tests", "the GPU tests", 16, (*NEEDS, "pytest")),
    Stage("loaders", "loaders alone", 8, (*NEEDS, "pytest")),
    Stage("steps", "training steps", 25, (*NEEDS, "pytest")),
    Stage("mission", "50 epochs with their report", 22, RUN_NEEDS),
    Stage("sprint", "the sprint to 94 %", 12, RUN_NEEDS),
    Stage("peers", "whole epochs beside the source loop and the AMP loop", 7, NEEDS),
    Stage("trace", "traces of the profiler", 5, NEEDS),
)


def missing(stage: Stage) -> list[str]:
    """The packages that a stage needs and this machine lacks."""
    return [name for name in stage.needs if not installed(name)]


def installed(name: str) -> bool:
    """Whether a package or one of its modules can be found; it is not imported."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of nvidia.dali, where there is no nvidia
        return False


def result_path(out: Path, name: str) -> Path:
    """The file of a stage's result: OUT/1-machine.json and so on."""
    number = [stage.name for stage in STAGES].index(name) + 1
    return out / f"{number}-{name}.json"


def log_path(out: Path, name: str) -> Path:
    """The file with all that a stage printed."""
    return out / "logs" / f"{name}.txt"
