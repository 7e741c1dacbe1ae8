"""Runs one stage in this process, and keeps the reason if it fails.

The stages are looked up by name, so that a process imports only what its own stage needs.
"""

from __future__ import annotations

import signal
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import result_path
from benchmarks.gpu.record import Job, LeftOut, Record, said


def run(asked: dict[str, Any]) -> int:
    """Run the stage that `asked` names (see __main__.py); return the exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored in a background
    name, out = asked["stage"], Path(asked["out"])
    record = Record(result_path(out, name), {"stage": name, "rehearsal": asked["toy"]})
    data_dir = Path(asked["data_dir"]) if asked["data_dir"] else None
    job = Job(record, out, Path(asked["scratch"]), asked["ends"], asked["toy"], data_dir)
    began = time.monotonic()
    try:
        _prepare(name, job)
        if asked["fail"] == name:
            raise RuntimeError("asked to fail, by --fail")
        import_module(f"benchmarks.gpu.{name}").measure(job)
    except LeftOut as reason:
        record.end("left out", str(reason))
        return 0
    except KeyboardInterrupt:
        record.end("out of time", f"stopped after {time.monotonic() - began:.0f} s, its share")
        return 1
    except Exception as error:
        traceback.print_exc()
        record.put("traceback", traceback.format_exc()[-4000:])
        record.end("failed", said(error))
        return 1
    record.end("done")
    return 0


def _prepare(name: str, job: Job) -> None:
    import torch

    from fasttrain.machine import environment

    if job.toy:
        from benchmarks.gpu import toy

        toy.shrink(name)
    elif not torch.cuda.is_available():
        raise RuntimeError(f"no CUDA device is available to torch {torch.__version__}")
    job.record.put("environment", environment.describe())
