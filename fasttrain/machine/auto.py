"""What `auto` means on this machine, each choice with its reason.

The reasons are printed at the start of a run, because a fast path that silently was not taken is
the commonest reason for a slow one.
"""

from __future__ import annotations

import shutil
import sys
from typing import NamedTuple

import torch

from ..errors import EnvironmentProblem

# A cold compile costs about a minute; an eager step of launch-bound size wastes milliseconds.
COMPILE_PAYS_AFTER_STEPS = 5_000


class Choice(NamedTuple):
    """A value and why it was chosen."""

    value: str
    why: str


def device(asked: str) -> torch.device:
    """The device to train on; EnvironmentProblem where it is not there."""
    if asked == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        found = torch.device(asked)
    except RuntimeError:
        raise EnvironmentProblem(
            f"--device ({asked!r}): not a device. Use auto, cpu, cuda or cuda:N."
        ) from None
    if found.type not in ("cpu", "cuda"):
        raise EnvironmentProblem(
            f"--device ({asked!r}): fasttrain knows cpu and cuda only. Use one of them."
        )
    if found.type == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem(
            f"--device ({asked}): CUDA is not available to torch {torch.__version__}. "
            "Install an NVIDIA driver and a CUDA build of torch, or use --device cpu."
        )
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise EnvironmentProblem(
            f"--device ({asked}): only {torch.cuda.device_count()} GPU(s) are visible. "
            "Use a smaller index, or look at CUDA_VISIBLE_DEVICES."
        )
    return torch.device("cuda", found.index or 0) if found.type == "cuda" else found


def make_current(device: torch.device) -> None:
    """Make a GPU the one that streams, events and loaders of this process use by default."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def current_device(asked: str) -> torch.device:
    """The device that this process uses: of several GPUs its own, whatever all were asked for."""
    found = device(asked)
    return torch.device("cuda", torch.cuda.current_device()) if found.type == "cuda" else found


def amp(asked: str, on: torch.device) -> Choice:
    """bf16, fp16 or off; asked for where it is emulated, with the reason against it."""
    if asked != "auto":
        if on.type == "cpu" and _emulated(asked):
            # A 512^3 product: fp16 1.8 GFLOP/s, bf16 370, float32 105 (1 core of an EPYC, torch
            # 2.13); ResNet18's convolutions in fp16 a fifteenth of float32's rate.
            better = amp("auto", on).value
            return Choice(
                asked,
                f"asked for, but this CPU has no {asked} instructions and is many times slower "
                f"with it. Use --amp {better}",
            )
        return Choice(asked, "asked for")
    if on.type == "cuda":
        if torch.cuda.get_device_capability(on) >= (8, 0):
            return Choice(
                "bf16", "this GPU multiplies bf16 at full rate and it needs no loss scale"
            )
        if torch.cuda.get_device_capability(on) >= (7, 0):
            return Choice("fp16", "this GPU has fp16 tensor cores and no bf16")
        return Choice("off", "this GPU has no tensor cores")
    if cpu_multiplies_bf16():
        return Choice("bf16", "this CPU has bf16 instructions")
    # Emulated bf16 was 12 times slower: 60.9 s a step against 5.1 on a 2-core AVX2 machine.
    return Choice("off", "this CPU has no bf16 instructions")


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has AVX512-BF16 or AMX."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("amx_tile"))


def _emulated(amp: str) -> bool:
    if amp == "fp16":
        found = torch.cpu.get_capabilities()
        return not (found.get("avx512_fp16") or found.get("amx_fp16"))
    return amp == "bf16" and not cpu_multiplies_bf16()


def compiled(asked: str, on: torch.device, *, steps: int) -> Choice:
    """on or off, for a run of `steps` training steps."""
    if asked == "on" and on.type == "cpu" and not _cpp_compiler():
        raise EnvironmentProblem(
            "--compile (on): no C++ compiler found. Install g++ or clang++, or use --compile off."
        )
    if asked != "auto":
        return Choice(asked, "asked for")
    if on.type == "cpu":
        # 0.93 of eager's speed at batch 64 and 1.03 at 128 in bf16, 0.89 in fp32 (2 AVX-512 cores),
        # 0.99 at 128 with AMX and 0.87 with images side by side (1 core, n = 7; torch 2.13):
        # oneDNN's convolutions are nearly all of the step. Compiling takes 30 s.
        return Choice("off", "on a CPU the convolutions are the step, and compiling gains nothing")
    if sys.platform == "win32":
        return Choice("off", "triton has no wheel for this platform")
    if steps < COMPILE_PAYS_AFTER_STEPS:
        return Choice("off", f"{steps} steps are too few to pay back a minute of compiling")
    return Choice("on", f"{steps} steps pay back a minute of compiling")


def graphs(
    asked: str, on: torch.device, *, amp: str, optimizer: str, filters: str, world: int
) -> Choice:
    """on or off; asked for where a step cannot be captured, off with the reason."""
    if asked == "off":
        return Choice("off", "asked for")
    if on.type != "cuda":
        if asked == "on":
            raise EnvironmentProblem(
                f"--graphs (on): {on} has no CUDA graphs. Use --device cuda, or --graphs off."
            )
        return Choice("off", "CUDA graphs need a GPU")
    obstacles = {
        "float16's loss scale is not captured": amp == "fp16",
        "apex keeps the learning rate as a number, whose change a graph would not see": optimizer
        == "apex",
        f"the update of --filters {filters} is not captured": filters != "sgd",
        "the exchange between processes is not captured": world > 1,
    }
    found = next((why for why, there in obstacles.items() if there), None)
    if found:
        return Choice("off", found)
    if asked == "auto":
        return Choice("off", "not measured yet; doctor tries them")
    return Choice("on", "asked for")


def loader(asked: str, dali_problem: str | None) -> Choice:
    """dali, resident or kernel; `dali_problem` says why DALI cannot be imported, or is None."""
    if asked != "auto":
        return Choice(asked, "asked for")
    if dali_problem is None:
        return Choice("dali", "DALI imports")
    return Choice("resident", dali_problem)


def _cpp_compiler() -> bool:
    return any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl"))
