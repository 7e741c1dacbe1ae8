"""The arguments of the commands that take a RUN, the directory of a trained run.

The run already holds its recipe, so these commands have no flag of a recipe.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..storage.paths import path
from . import values


def explain(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `explain`."""
    _add_run(parser)
    parser.add_argument(
        "--image",
        type=values.index,
        metavar="INDEX",
        help="show Grad-CAM of one test image (or val, if that is all there is) in all stages",
    )
    parser.add_argument(
        "--sample",
        type=values.sample,
        metavar="{confident,random}",
        default="confident",
        help="mistakes to show: the most confident or a random sample (default: confident)",
    )
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda or cuda:N")


def report(parser: argparse.ArgumentParser) -> None:
    """Add the argument of `report`."""
    _add_run(parser)


def compare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `compare`, which takes several runs."""
    parser.add_argument("runs", type=path, nargs="+", metavar="RUN", help="run directories")
    parser.add_argument(
        "--out",
        type=path,
        default=Path("compare.html"),
        help="HTML page to write (default: compare.html)",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=path, metavar="RUN", help="run directory")
