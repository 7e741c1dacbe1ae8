"""GPU kernels in Triton; they import torch and triton and never fasttrain.

Importing this package needs neither. Call `problem` before a kernel is imported.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def problem(device: torch.device) -> str | None:
    """Why Triton's kernels cannot run on `device`, in one line; None if they can.

    That is also what torch.compile needs on a GPU.
    """
    try:
        from triton import knobs
    except ImportError as error:
        return f"triton cannot be imported: {error}"
    if knobs.runtime.interpret:
        return None
    if device.type != "cuda":
        return f"Triton's kernels need a CUDA GPU, and the device is {device.type}"
    return _launcher_problem()


def _launcher_problem() -> str | None:
    """Why Triton cannot build the C code that launches a kernel; slim images lack what it needs."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton builds its launchers with a C compiler, and there is neither gcc nor clang"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        return f"Triton builds its launchers with Python's headers, and there is no {header}"
    return None
