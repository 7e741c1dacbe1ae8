"""Describes the hardware and versions of a run for environment.json.

A speed means little without them. The description names no user, home, host or environment
variable, so that a run directory can be shared.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__

PACKAGE = Path(__file__).resolve().parents[1]
DALI = [f"nvidia-dali-cuda{version}" for version in (130, 120, 110)]
GIB = 2**30


def describe() -> dict[str, Any]:
    """Versions, CPU and GPU as JSON values; null for what is missing or unknown."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "fasttrain": {"version": __version__, **_git(PACKAGE)},
        **hardware(),
    }


def hardware() -> dict[str, Any]:
    """The part of `describe` that speed depends on: the machine and the versions of what runs."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "triton": _version("triton"),
        "dali": next(filter(None, map(_version, DALI)), None),
        "os": platform.platform(),
        "cpu": _cpu(),
        "gpu": _gpu() if torch.cuda.is_available() else None,
    }


def _git(package: Path) -> dict[str, Any]:
    """The commit of the checkout that contains `package`, and whether there are changes since."""
    unknown = {"commit": None, "modified": None}
    found = _run_git(package, "rev-parse", "--show-toplevel", "HEAD")
    if found is None or len(found) != 2 or Path(found[0]).resolve() != package.parent:
        return unknown  # perhaps installed in the virtual environment of another project
    changes = _run_git(package, "status", "--porcelain", "--untracked-files=normal")
    return {"commit": found[1], "modified": None if changes is None else bool(changes)}


def _run_git(folder: Path, *words: str) -> list[str] | None:
    """The lines that git prints, or None if it fails."""
    # A git hook sets GIT_DIR and others, which may point to another repository.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, timeout=2, check=True, env=clean)
    except (OSError, subprocess.SubprocessError):
        return None
    return os.fsdecode(done.stdout).splitlines()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    has = torch.cpu.get_capabilities()
    name = re.search(r"^model name\s*: (.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return {
        "name": name[1] if name else platform.processor() or platform.machine(),
        "physical_cores": has.get("num_physical_cores") or os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bf16": any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "amx_tile")),
    }


def _gpu() -> dict[str, Any]:
    facts = torch.cuda.get_device_properties(torch.cuda.current_device())
    driver = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", _text("/proc/driver/nvidia/version"))
    return {
        "name": facts.name,
        "count": torch.cuda.device_count(),
        "memory_gib": round(facts.total_memory / GIB, 1),
        "capability": f"{facts.major}.{facts.minor}",
        "bf16": facts.major >= 8,
        "driver": driver[1] if driver else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1)
    except (AttributeError, OSError, ValueError):  # not on every system
        return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
