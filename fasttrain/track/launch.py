"""Starts the process of a tracker, once it is known that the tracker is installed.

It is a `python -c` and none of multiprocessing: a user's script is not run a second time.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from ..errors import EnvironmentProblem

PACKAGES = ("wandb", "mlflow")
CALL = 120.0  # seconds after which a call of the tracker ends its process


def check_installed(name: str) -> None:
    """Raise EnvironmentProblem if the tracker `name` is a package that is not there."""
    if name not in PACKAGES:
        return
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:  # a folder of that name is no package
        raise EnvironmentProblem(
            f"--track ({name}): the package is not installed. Install it with pip install "
            f"{name}, or leave --track out."
        )


def died(name: str, status: int) -> str:
    """The error for a process that ended during the import of the tracker `name`."""
    return (
        f"--track ({name}): the process that imports it ended with status {status}. Try to import "
        "it in Python, or leave --track out."
    )


def launched(name: str) -> subprocess.Popen[bytes]:
    """Start a process that runs process.py and imports the same modules as this one would."""
    path = [*sys.path, str(Path(__file__).parents[2])]
    code = f"import sys; sys.path[:] = {path!a}; from fasttrain.track.process import main; main()"
    try:
        return subprocess.Popen(
            [sys.executable, "-c", code, name, str(CALL)],
            bufsize=0,  # the threads may be stopped in a call at the end of the interpreter
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C stops the run, which then tells its tracker
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        raise EnvironmentProblem(
            f"--track ({name}): no process can be started for it ({error.strerror}). Leave --track "
            "out."
        ) from None
