"""Ten minutes on a GPU: every stage measured, each result kept, and the tables written.

python -m benchmarks.gpu --minutes 9 --out DIR [--data-dir PATH] [--name NAME] [--only STAGE,...]
python -m benchmarks.gpu --rehearse       every stage on a CPU at toy size, in less than two minutes
python -m benchmarks.gpu table DIR NAME   the results in DIR -> results/gpu-NAME.json and the tables
python -m benchmarks.gpu table            results/gpu-*.json -> the tables in README.md and docs/

docs/benchmarks.md says how to bring images. Nothing needs a network.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.gpu.plan import STAGES, Stage, log_path, result_path
from benchmarks.gpu.runner import GOOD, ROOT, run

MINUTES, GRACE = 9.0, 5.0
TOY_MINUTES, TOY_GRACE = 5.0, 2.0  # a limit: it takes one or two
ENDING = 10.0  # seconds for the tables


def flags() -> argparse.ArgumentParser:
    """The parser of a measurement's arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    names = [stage.name for stage in STAGES]
    parser.add_argument("--minutes", type=float, help=f"for everything (default {MINUTES:g})")
    parser.add_argument("--out", type=Path, help="folder of the results (default .benchmarks/gpu)")
    parser.add_argument("--data-dir", type=Path, help="CIFAR-10: an archive, or a folder of it")
    parser.add_argument("--name", default="here", help="of the kept result, results/gpu-NAME.json")
    parser.add_argument("--only", default=",".join(names), help=f"some of {', '.join(names)}")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, at toy size")
    parser.add_argument("--fail", choices=names, help="make a stage fail, to see the others go on")
    return parser


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments of a measurement, checked."""
    parser = flags()
    asked = parser.parse_args(arguments)
    unknown = set(asked.only.split(",")) - {stage.name for stage in STAGES}
    if unknown:
        parser.error(f"--only: no stage {', '.join(sorted(unknown))}")
    if asked.data_dir and not asked.data_dir.exists():
        parser.error(f"--data-dir ({asked.data_dir}): there is none")
    asked.minutes = asked.minutes or (TOY_MINUTES if asked.rehearse else MINUTES)
    return asked


def measure(asked: argparse.Namespace) -> int:
    """Run the stages and write the report; return the exit status."""
    folder = ".benchmarks/rehearsal" if asked.rehearse else ".benchmarks/gpu"
    out = (asked.out or ROOT / folder).resolve()
    out.mkdir(parents=True, exist_ok=True)
    stages = [stage for stage in STAGES if stage.name in asked.only.split(",")]
    if asked.rehearse:  # at toy size most of each is the import of torch
        stages = [stage._replace(share=1) for stage in stages]
    for stage in stages:
        for path in (result_path(out, stage.name), log_path(out, stage.name)):
            path.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if asked.rehearse:  # without a GPU, and one thread: a second slows tiny networks down
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave no stage behind
    with TemporaryDirectory(prefix="fasttrain-gpu-") as scratch:
        shared = {"out": str(out), "scratch": scratch, "toy": asked.rehearse, "fail": asked.fail}
        shared |= {"data_dir": str(asked.data_dir.resolve()) if asked.data_dir else None}

        def words(stage: Stage, ends: float) -> list[str]:
            request = json.dumps({**shared, "stage": stage.name, "ends": ends})
            return [sys.executable, "-m", "benchmarks.gpu", "stage", request]

        try:
            results = run(
                stages,
                words,
                out=out,
                seconds=60 * asked.minutes - ENDING,
                grace=TOY_GRACE if asked.rehearse else GRACE,
                environment=environment,
                log=lambda line: print(line, flush=True),
            )
        except KeyboardInterrupt:
            print(f"interrupted: what was measured is in {out}", file=sys.stderr)
            return 130
        finally:
            signal.signal(signal.SIGTERM, before)
    _write(asked, out)
    return 0 if all(found["state"] in GOOD for found in results) else 1


def _write(asked: argparse.Namespace, out: Path) -> None:
    from benchmarks.gpu import tables

    print(f"report: {tables.report(out)}")
    if asked.rehearse:
        return
    try:
        tables.keep(out, asked.name)
    except (OSError, ValueError) as error:
        print(f"the tables were not written: {error}")
        return
    print(f"kept as benchmarks/results/gpu-{asked.name}.json, and in README.md and docs/")


def _tables(words: Sequence[str]) -> int:
    from benchmarks.gpu import tables

    try:
        if words:
            tables.keep(Path(words[0]), words[1] if words[1:] else "here")
        else:
            tables.write()
    except (OSError, ValueError) as error:
        print(f"benchmarks.gpu: error: {error}", file=sys.stderr)
        return 2
    return 0


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["stage"]:
        from benchmarks.gpu import stage

        return stage.run(json.loads(arguments[1]))
    if arguments[:1] == ["table"]:
        return _tables(arguments[1:])
    asked = parsed(arguments)
    if not asked.rehearse:
        import torch

        if not torch.cuda.is_available():
            problem = f"no CUDA device is available to torch {torch.__version__}"
            print(f"benchmarks.gpu: error: {problem}. On a CPU use --rehearse.", file=sys.stderr)
            return 3
    return measure(asked)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
