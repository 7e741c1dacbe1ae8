"""What the machine is: hardware, versions, what is installed, and the roofs of its speed.

Whatever else is measured is read against these numbers. Nothing of the GPU is set or reset.
"""

from __future__ import annotations

import shutil
import subprocess

import torch

from benchmarks.conftest import DEVICE, wait
from benchmarks.gpu.plan import installed
from benchmarks.gpu.record import Job, said
from benchmarks.gpu.turns import rates
from fasttrain.run.ledger import TF32, gemm_rate

PACKAGES = ("nvidia.dali", "albumentations", "airbench", "apex", "triton", "torchvision")
PACKAGES += ("rich", "tensorboard", "pytest")
QUERY = "name,driver_version,memory.total,memory.used,utilization.gpu,temperature.gpu,power.draw"
QUERY += ",power.limit,clocks.sm,clocks.max.sm,clocks.mem,persistence_mode,mig.mode.current"
KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16, TF32: TF32, "float32": torch.float32}
COPIED = 2**30  # bytes


def measure(job: Job) -> None:
    """Record packages, nvidia-smi's reading, the rates of matrix products and of a copy."""
    record = job.record
    record.put("packages", {name: installed(name) for name in PACKAGES})
    absent = [name for name in PACKAGES if not installed(name)]
    if absent:
        record.note(f"not installed, so without their rows: {', '.join(absent)}")
    record.put("compilers", [name for name in ("g++", "clang++", "nvcc") if shutil.which(name)])
    record.put("cuda", {"torch": torch.version.cuda, "nccl": _nccl()})
    record.put("nvidia_smi", _nvidia_smi(job))
    for name, kind in KINDS.items():
        if job.toy and name == "fp16":  # 1.8 GFLOP/s where it is emulated
            continue
        rate = gemm_rate(DEVICE, kind, seconds=0.02 if job.toy else 1.0)
        record.row({"group": "matrix product", "provider": name, "n": 1, "flops": rate})
    record.row({"group": "copy on the device", "provider": "torch", **_copy(job)})
    record.put("nvidia_smi_after", _nvidia_smi(job))


def _copy(job: Job) -> dict[str, float]:
    """The GB/s of copies from the device to itself, counting what is read and what is written."""
    source = torch.empty(COPIED // (64 if job.toy else 1), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)

    def copy() -> int:
        for _ in range(10):
            target.copy_(source)
        wait()
        return 10 * 2 * source.numel()

    row = rates({"torch": lambda: copy}, job, rounds=5, peer="torch", what="copy")["torch"]
    return {"n": row["n"], "gigabytes_per_second": row["images_per_second"] / 1e9}


def _nccl() -> str | None:
    if DEVICE.type != "cuda" or not torch.distributed.is_nccl_available():
        return None
    return ".".join(map(str, torch.cuda.nccl.version()))


def _nvidia_smi(job: Job) -> dict[str, str] | None:
    """What nvidia-smi reads of the first GPU; None where there is no nvidia-smi."""
    words = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        job.record.note(f"nvidia-smi: {said(error)}")
        return None
    values = [value.strip() for value in done.stdout.splitlines()[0].split(",")]
    return dict(zip(QUERY.split(","), values, strict=False))
