"""The arguments of the commands that take a RUN, the directory of a trained run.

The run already holds its recipe, so of a recipe's flags only those that train nothing are here.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from ..storage.paths import path
from . import recipe_flags, values


def explain(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `explain`."""
    _add_run(parser)
    parser.add_argument(
        "--image",
        type=values.image,
        metavar="INDEX|FILE",
        help="show Grad-CAM of one test image (or val, if that is all there is), or of any image "
        "file, in all stages",
    )
    parser.add_argument(
        "--sample",
        type=values.sample,
        metavar="{confident,random}",
        default="confident",
        help="mistakes to show: the most confident or a random sample (default: confident)",
    )
    _add_device(parser)
    for name in ("cache_dir", "cam_layer"):
        recipe_flags.add_field(parser, name)


def predict(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `predict`, which takes images."""
    _add_run(parser, "run directory, or a checkpoint file")
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="images: files, folders, globs, .csv with file_name, .npz; - reads paths from stdin",
    )
    parser.add_argument(
        "--top",
        type=partial(values.count, flag="--top"),
        default=1,
        metavar="INT",
        help="name this many of the most probable classes (default: 1)",
    )
    parser.add_argument(
        "--threshold",
        type=values.share,
        default=0.0,
        metavar="FLOAT",
        help="name no class below this probability (default: 0)",
    )
    parser.add_argument(
        "--test-flips",
        action="store_true",
        help="average over each image and its mirror image",
    )
    parser.add_argument(
        "--format",
        type=values.form,
        metavar=f"{{{','.join(values.FORMATS)}}}",
        help="of the rows (default: by the ending of --out; a table in a terminal, else csv)",
    )
    parser.add_argument(
        "--out", type=path, metavar="FILE", help="write the rows to this file, once all are there"
    )
    parser.add_argument(
        "--batch-size",
        type=partial(values.count, flag="--batch-size"),
        metavar="INT",
        help="images computed at once (default: as in the run's evaluations)",
    )
    _add_device(parser)


def serve(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`."""
    _add_run(parser)
    parser.add_argument(
        "--port",
        type=values.port,
        default=0,
        metavar="INT",
        help="port of the page on this machine (default: any that is free)",
    )
    _add_device(parser)


def report(parser: argparse.ArgumentParser) -> None:
    """Add the argument of `report`."""
    _add_run(parser)


def runs(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `runs`."""
    parser.add_argument(
        "folder",
        type=path,
        nargs="?",
        metavar="FOLDER",
        help="folder with runs, or a run (default: runs)",
    )
    parser.add_argument(
        "--format",
        type=values.form,
        default="table",
        metavar=f"{{{','.join(values.FORMATS)}}}",
        help="of the rows (default: table)",
    )


def compare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `compare`, which takes several runs."""
    parser.add_argument(
        "runs",
        type=path,
        nargs="+",
        metavar="RUN",
        help="run directories; a folder stands for all runs in it",
    )
    parser.add_argument(
        "--sort",
        type=values.order,
        metavar="{name,accuracy,seconds,FIELD}",
        help="by name, accuracy (the highest first), seconds of training, or a field of the recipe "
        "(default: as named)",
    )
    parser.add_argument(
        "--out",
        type=path,
        default=Path("compare.html"),
        help="HTML page to write (default: compare.html)",
    )


def _add_run(parser: argparse.ArgumentParser, what: str = "run directory") -> None:
    parser.add_argument("run", type=path, metavar="RUN", help=what)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda or cuda:N")
