"""Lists what a machine has for training: versions, chips, compilers, and what is missing.

The usual cause of a slow run is a fast path that was silently not taken. Each line says why a path
is not available.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..loaders import dali
from ..machine import environment
from ..optim.sgd import apex_problem

COMPILERS = ("g++", "clang++", "c++", "cl")
ALLOCATORS = ("jemalloc", "tcmalloc", "mimalloc")
FEATURES = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "neon")


def inventory() -> dict[str, str]:
    """One line for each component that affects the speed of training."""
    facts = environment.describe()
    return {
        "python": facts["python"],
        "torch": f"{facts['torch']}, {_built_for()}",
        "gpu": _gpu(facts["gpu"]),
        "cpu": _cpu(facts["cpu"]),
        "features": _features(),
        "allocator": allocator(_text("/proc/self/maps")),
        "DALI": dali.available() or f"{facts['dali']}",
        "apex": apex_problem() or f"{metadata.version('apex')}, with its CUDA kernels",
        "triton": _version("triton") or "not installed",
        "compiler": _compiler(),
    }


def allocator(maps: str) -> str:
    """The malloc that a process uses, from the libraries in its memory (/proc/self/maps)."""
    libraries = {Path(line.split()[-1]).name for line in maps.splitlines() if "/" in line}
    for name in ALLOCATORS:
        if any(library.startswith(f"lib{name}") for library in libraries):
            return f"{name}, preloaded"
    return " ".join(platform.libc_ver()) or f"default of {platform.system()}"


def _built_for() -> str:
    return f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"


def _gpu(gpu: dict[str, Any] | None) -> str:
    if gpu:
        return (
            f"{gpu['count']} x {gpu['name']}, {gpu['memory_gib']} GiB, capability "
            f"{gpu['capability']}, driver {gpu['driver']}, CUDA {gpu['cuda']}, cuDNN {gpu['cudnn']}"
        )
    if not torch.version.cuda:
        return "none usable: torch is built without CUDA"
    driver = _text("/proc/driver/nvidia/version")
    return "none found" if driver else "none found, and no NVIDIA driver is installed"


def _cpu(cpu: dict[str, Any]) -> str:
    return (
        f"{cpu['name']}, {cpu['physical_cores']} cores, {cpu['torch_threads']} torch threads, "
        f"{cpu['memory_gib']} GiB"
    )


def _features() -> str:
    has = torch.cpu.get_capabilities()
    return ", ".join(name for name in FEATURES if has.get(name)) or "none of interest"


def _compiler() -> str:
    """The C++ compiler that torch.compile would use on a CPU."""
    found = next(filter(shutil.which, COMPILERS), None)
    if found is None:
        return "none: torch.compile needs one on a CPU"
    try:
        done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{found}, which does not run ({type(error).__name__})"
    version = re.search(r"\d+\.\d[\d.]*", done.stdout)
    return f"{found} {version[0] if version else ''}".strip()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
