"""How a figure looks: sizes, inks, colour maps; the only module that imports matplotlib.

One place, so that every figure of a run looks the same, and a report without figures pays nothing.
Lines differ in dash and weight as well as hue: they can be told apart in greyscale. A person's own
settings, of a notebook or a matplotlibrc, neither reach the figures nor are changed by them.
"""

from __future__ import annotations

import os
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .files import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure

Look = dict[str, Any]  # keyword arguments of matplotlib
Grid = Literal["", "x", "y", "both"]

INK, MUTED, RULE, PAPER = "#1b1f24", "#59616b", "#d9dde2", "#ffffff"
TEST, TRAIN, ACCENT = "#1f5fa8", "#b8550b", "#8a1f5c"
DPI = 120

# Keyword arguments of a line: the page's CSS draws the same two.
TRAIN_LINE: Look = {"color": TRAIN, "linestyle": (0, (4, 2)), "linewidth": 1.6}
TEST_LINE: Look = {"color": TEST, "linestyle": "-", "linewidth": 2.0}

_LOOK: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called $x$
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "hatch.linewidth": 0.7,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.1,
    "savefig.facecolor": PAPER,
}


@contextmanager
def styled() -> Iterator[None]:
    """Within this block, figures are made in the one style, from matplotlib's own defaults;
    its settings stay as they were outside."""
    matplotlib = _matplotlib()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_LOOK)
        yield


def _matplotlib() -> Any:
    """matplotlib, imported whatever backend the environment names: a notebook's commands inherit
    one that they may not have, and matplotlib then refuses its own import."""
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"]
    named = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    if named:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = named  # as its import does, for what comes after us
    return matplotlib


def figure(title: str, note: str = "", *, size: tuple[float, float] = (8, 4.5)) -> Figure:
    """An empty Figure of `size` inches at 120 dots; title and explanation at its top left."""
    _matplotlib()
    from matplotlib.figure import Figure

    made = Figure(figsize=size, dpi=DPI)
    width, height = size
    note = textwrap.fill(note, int(13.2 * width))  # characters of 9.5 points to an inch
    head = 0.42 + 0.165 * len(note.splitlines())
    made.set_layout_engine("constrained", rect=(0, 0, 1, 1 - head / height))
    look: Look = {"x": 0.12 / width, "ha": "left", "va": "top"}
    bold: Look = {"fontsize": 12.5, "fontweight": "bold", "color": INK}
    made.suptitle(title, y=1 - 0.12 / height, **look, **bold)
    made.text(s=note, y=1 - 0.39 / height, color=MUTED, **look)
    return made


def plot(made: Figure, *, x: str, y: str, grid: Grid = "y") -> Axes:
    """The Figure's axes, named, with a quiet grid along `grid`."""
    axes = made.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if grid:
        axes.grid(axis=grid)
    return axes


def pictures(made: Figure, *, width: float, height: float) -> Axes:
    """Axes without a frame that count in picture widths, rows downwards: for montages."""
    axes = made.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal", anchor="NW")
    return axes


def colours(values: np.ndarray, name: str = "inferno") -> np.ndarray:
    """Colour `values` in [0, 1] (..., ) with a perceptually uniform map: uint8 (..., 3)."""
    painted: np.ndarray = _matplotlib().colormaps[name](values, bytes=True)
    return painted[..., :3]


def save(made: Figure, path: Path) -> Path:
    """Write the Figure as a PNG; OutputError if it cannot be."""
    with writing(path), warnings.catch_warnings():
        # A class may be named in any alphabet; the page has the reader's fonts, a PNG this one.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        made.savefig(path, format="png", backend="agg", metadata={"Software": None})
    return path
