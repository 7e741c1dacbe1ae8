"""The arguments of `export`: which files, what they take, and where they are written.

They are checked before torch is imported, as every flag is.
"""

from __future__ import annotations

import argparse

from ..export import names
from ..storage.paths import path


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.add_argument("run", type=path, metavar="RUN", help="run directory")
    every = ",".join(names.FORMATS)
    parser.add_argument(
        "--format",
        type=names.formats,
        default=names.FORMATS,
        metavar="LIST",
        help=f"files to write, separated by commas (default: {every})",
    )
    parser.add_argument(
        "--out", type=path, metavar="FOLDER", help="folder to write to (default: RUN/export)"
    )
    parser.add_argument(
        "--input",
        type=names.input_kind,
        default="image",
        metavar="{" + ",".join(names.INPUTS) + "}",
        help="what the files take: images of any size, or images already resized to the network's "
        "side (default: image)",
    )
