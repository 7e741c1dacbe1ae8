"""GPU kernels in Triton; they import torch and triton and never fasttrain.

Importing this package needs neither. Call `problem` before a kernel is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def problem(device: torch.device) -> str | None:
    """Why the kernels cannot run on `device`, in one line; None if they can."""
    try:
        from triton import knobs
    except ImportError as error:
        return f"triton cannot be imported: {error}"
    if device.type == "cuda" or knobs.runtime.interpret:
        return None
    return f"Triton's kernels need a CUDA GPU, and the device is {device.type}"
