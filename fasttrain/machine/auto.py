"""What this machine can do, and what `auto` means where nothing was measured, with the reasons.

engine/tune.py measures. These rules serve runs that are too short for it and `--tune off`. The
reasons are printed, because the usual cause of a slow run is a fast path silently not taken.
"""

from __future__ import annotations

import shutil
from typing import NamedTuple

import torch

import kernels

from ..errors import EnvironmentProblem

NOT_MEASURED = "not measured"
# 50 epochs of ResNet18 in batches of 128, fp16, an H200, torch 2.11; capturing took 0.35 s.
LAUNCHES = "on an H200 a step took 3.1 ms in a graph and 5.8 ms launch by launch"


class Choice(NamedTuple):
    """A value and why it was chosen."""

    value: str
    why: str


def device(requested: str) -> torch.device:
    """The device to train on; EnvironmentProblem if this machine does not have it."""
    if requested == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        found = torch.device(requested)
    except RuntimeError:
        raise EnvironmentProblem(
            f"--device ({requested!r}): not a device. Use auto, cpu, cuda or cuda:N."
        ) from None
    if found.type not in ("cpu", "cuda"):
        raise EnvironmentProblem(
            f"--device ({requested!r}): fasttrain supports only cpu and cuda. Use one of them."
        )
    if found.type == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem(
            f"--device ({requested}): CUDA is not available to torch {torch.__version__}. "
            "Install an NVIDIA driver and a CUDA build of torch, or use --device cpu."
        )
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise EnvironmentProblem(
            f"--device ({requested}): only {torch.cuda.device_count()} GPU(s) are visible. "
            "Use a smaller index, or check CUDA_VISIBLE_DEVICES."
        )
    return torch.device("cuda", found.index or 0) if found.type == "cuda" else found


def make_current(device: torch.device) -> None:
    """Make a GPU the one that streams, events and loaders of this process use by default."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def current_device(asked: str) -> torch.device:
    """Return the device that this process uses: of several GPUs its own one."""
    found = device(asked)
    return torch.device("cuda", torch.cuda.current_device()) if found.type == "cuda" else found


def amp(requested: str, on: torch.device) -> Choice:
    """Choose bf16, fp16 or off; warn about a requested precision that is only emulated."""
    if requested != "auto":
        if on.type == "cpu" and _emulated(requested):
            # A 512^3 product: fp16 1.8 GFLOP/s, bf16 370, float32 105 (1 core of an EPYC, torch
            # 2.13); ResNet18's convolutions in fp16 a fifteenth of float32's rate.
            better = amp("auto", on).value
            return Choice(
                requested,
                f"requested, but this CPU has no {requested} instructions and is many times slower "
                f"with it. Use --amp {better}",
            )
        return Choice(requested, "requested")
    if on.type == "cuda":
        if torch.cuda.get_device_capability(on) >= (8, 0):
            return Choice(
                "bf16", "this GPU computes bf16 at full speed, and bf16 needs no loss scale"
            )
        if torch.cuda.get_device_capability(on) >= (7, 0):
            return Choice("fp16", "this GPU has fp16 tensor cores and no bf16")
        return Choice("off", "this GPU has no tensor cores")
    if cpu_multiplies_bf16():
        return Choice("bf16", "this CPU has bf16 instructions")
    # Emulated bf16 is 12 times slower: 60.9 s a step against 5.1 on a 2-core AVX2 machine.
    return Choice("off", "this CPU has no bf16 instructions")


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has AVX512-BF16 or AMX."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("amx_tile"))


def precisions(on: torch.device) -> tuple[str, ...]:
    """The values of --amp that the device does not emulate, the simplest first."""
    if on.type == "cpu":
        return tuple(amp for amp in ("off", "bf16", "fp16") if not _emulated(amp))
    if torch.cuda.get_device_capability(on) >= (8, 0):
        return ("off", "bf16", "fp16")
    return ("off", "fp16")


def _emulated(amp: str) -> bool:
    if amp == "fp16":
        found = torch.cpu.get_capabilities()
        return not (found.get("avx512_fp16") or found.get("amx_fp16"))
    return amp == "bf16" and not cpu_multiplies_bf16()


def convolutions(on: torch.device, amp: str) -> Choice:
    """Choose packed or plain: images side by side, where 3x3 convolutions gain from it."""
    if on.type != "cpu" or amp != "bf16":
        return Choice("plain", "packing serves bf16 on a CPU alone")
    if torch.cpu.get_capabilities().get("amx_tile"):
        return Choice("packed", "this CPU has AMX, whose tiles narrow images do not fill")
    return Choice("plain", "this CPU has no AMX")


def compiled(requested: str, on: torch.device) -> Choice:
    """Choose on or off; EnvironmentProblem if it is requested and cannot be."""
    if requested == "on" and on.type == "cpu" and not _cpp_compiler():
        raise EnvironmentProblem(
            "--compile (on): no C++ compiler found. Install g++ or clang++, or use --compile off."
        )
    obstacle = kernels.problem(on) if on.type == "cuda" and requested != "off" else None
    if requested == "on" and obstacle:
        raise EnvironmentProblem(f"--compile (on): {obstacle}. Install it, or use --compile off.")
    if requested != "auto":
        return Choice(requested, "requested")
    if on.type == "cpu":
        # 0.93 of eager's speed at batch 64 and 1.03 at 128 in bf16, 0.89 in fp32 (2 AVX-512 cores),
        # 0.99 at 128 with AMX and 0.87 with images side by side (1 core, n = 7; torch 2.13):
        # oneDNN's convolutions are nearly all of the step. Compiling takes 30 s.
        return Choice(
            "off", "on a CPU nearly all of a step is convolutions, and compiling gains nothing"
        )
    return Choice("off", obstacle or NOT_MEASURED)


def graphs(requested: str, on: torch.device, *, optimizer: str, world: int, known: bool) -> Choice:
    """Choose on or off; off, with the reason, if the step cannot be captured.

    A network that is not `known` may do what cannot be captured: that shows only when it is tried.
    """
    if requested == "off":
        return Choice("off", "requested")
    if on.type != "cuda":
        if requested == "on":
            raise EnvironmentProblem(
                f"--graphs (on): {on} has no CUDA graphs. Use --device cuda, or --graphs off."
            )
        return Choice("off", "CUDA graphs need a GPU")
    obstacles = {
        "apex keeps the learning rate as a number, and a graph would not see it change": optimizer
        == "apex",
        # torch captures DDP only if it was built and warmed up, eleven times, on a side stream,
        # and NCCL's handling of errors was turned off before the group began.
        "communication between processes is not captured": world > 1,
    }
    found = next((why for why, applies in obstacles.items() if applies), None)
    if found:
        return Choice("off", found)
    if requested == "auto":
        return Choice("on", LAUNCHES) if known else Choice("off", NOT_MEASURED)
    return Choice("on", "requested")


def optimizer(requested: str, on: torch.device, *, sgd: bool) -> Choice:
    """Choose torch's fused SGD or what is requested; only SGD has an implementation to choose."""
    if requested != "auto":
        return Choice(requested, "requested")
    obstacle = kernel_problem(on) if sgd else "the only one of this kind"
    return Choice("torch", obstacle or NOT_MEASURED)


def kernel_problem(on: torch.device) -> str | None:
    """Why our kernels are not worth trying on the device; None if they are."""
    return kernels.problem(on) if on.type == "cuda" else "the kernel needs a GPU"


def loader(requested: str, dali_problem: str | None) -> Choice:
    """Choose dali, resident or kernel; `dali_problem` is why DALI cannot be imported, or None."""
    if requested != "auto":
        return Choice(requested, "requested")
    if dali_problem is None:
        return Choice("dali", "DALI is installed")
    return Choice("resident", dali_problem)


def _cpp_compiler() -> bool:
    return any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl"))
