"""Measures memory and its limit, and turns running out of it into one clear error.

A batch that does not fit is never made smaller silently, because BatchNorm and the learning rate
depend on its size.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from ..errors import OutOfMemory

GIB = 1 << 30
# What torch, oneDNN, the C++ library, cuDNN, cuBLAS and DALI print; they have no error class.
MESSAGES = (
    *("DefaultCPUAllocator", "could not create a memory object", "std::bad_alloc"),
    *("out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED"),
    *("CUDA allocation failed", "Cannot allocate memory"),
    "CUBLAS_STATUS_NOT_INITIALIZED",  # its handle needs memory too
)
# What cuDNN says where no workspace is left; at a batch of one it means a shape it cannot compute.
NO_ENGINE = "unable to find an engine to execute this computation"
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


def is_out_of_memory(error: BaseException | None, batch_size: int) -> bool:
    """Whether an error, or one that it followed from, says that memory ran out.

    Inside the capture of a CUDA graph, the end of the capture raises another error on top.
    """
    while error is not None:
        if _says_so(error, batch_size):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def _says_so(error: BaseException, batch_size: int) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    messages = (*MESSAGES, NO_ENGINE) if batch_size > 1 else MESSAGES
    return isinstance(error, RuntimeError) and any(m in str(error) for m in messages)


@contextmanager
def reported(batch_size: int, device: torch.device) -> Iterator[None]:
    """Turn an out-of-memory error into OutOfMemory, with peak, limit and a batch size to try."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error, batch_size):
            raise
        raise out_of_memory(batch_size, device) from error


def out_of_memory(batch_size: int, device: torch.device) -> OutOfMemory:
    """Return the error for a batch that does not fit."""
    used = f"{peak(device) / GIB:.1f} of {limit(device) / GIB:.1f} GiB at its peak"
    advice = "Use a device with more memory"
    if batch_size > 1:
        less = f"Try --batch-size {batch_size // 2}"
        advice = f"{less}, or run `python -m fasttrain doctor --find-batch-size`"
    return OutOfMemory(f"--batch-size ({batch_size}): out of memory on {device}, {used}. {advice}.")


def peak(device: torch.device) -> int:
    """The peak of used bytes: torch's on a GPU, this process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def limit(device: torch.device) -> int:
    """The total bytes of the GPU, or the smallest limit of machine, container and `ulimit -v`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if sys.platform == "win32":
        return 0
    import resource

    most = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_numbers(CGROUPS)]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return min(most if soft == resource.RLIM_INFINITY else [*most, soft])


def available(device: torch.device) -> int:
    """The bytes that this process can use on a CPU: those it has now and those that are free."""
    free = [limit(device)]
    with suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":") for line in lines)
        free.append(int(fields["MemAvailable"].split()[0]) * 1024 + resident())
    for most, used in zip(_numbers(CGROUPS), _numbers(USED), strict=False):
        free.append(most - used + resident())
    return min(free)


def resident() -> int:
    """The bytes of this process in memory now; 0 if the system does not report them."""
    return _status("VmRSS")


@contextmanager
def peak_of() -> Iterator[list[int]]:
    """Yield a list; after the block it holds the peak bytes of this process within the block."""
    found: list[int] = []
    with suppress(OSError):  # if it cannot be reset, use the peak of the process
        Path("/proc/self/clear_refs").write_text("5")
    yield found
    found.append(_status("VmHWM") or peak(torch.device("cpu")))


def _status(name: str) -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def _numbers(files: tuple[str, ...]) -> list[int]:
    """The numbers in the files; skips missing files and others, since a cgroup may say `max`."""
    found = []
    for file in files:
        with suppress(OSError, ValueError):
            found.append(int(Path(file).read_text()))
    return found
