"""The style of all figures: sizes, colours, colour maps; the only module that imports matplotlib.

All figures share one style, and a report without figures does not import matplotlib. Lines differ
in dashes and width as well as colour, so that greyscale suffices to distinguish them. The user's
own matplotlib settings, of a notebook or a matplotlibrc, do not affect figures and do not change.
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

Style = dict[str, Any]  # keyword arguments of matplotlib
Grid = Literal["", "x", "y", "both"]

INK, MUTED, RULE, PAPER = "#1b1f24", "#59616b", "#d9dde2", "#ffffff"
TEST, TRAIN, ACCENT = "#1f5fa8", "#b8550b", "#8a1f5c"
DPI = 120

# Keyword arguments of lines; page.css draws the same two styles.
TRAIN_LINE: Style = {"color": TRAIN, "linestyle": (0, (4, 2)), "linewidth": 1.6}
TEST_LINE: Style = {"color": TEST, "linestyle": "-", "linewidth": 2.0}

_SETTINGS: Any = {
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
    """Draw figures in this module's style within the block; restore the settings after it."""
    matplotlib = _matplotlib()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def _matplotlib() -> Any:
    """Import matplotlib, even if MPLBACKEND names a backend that is not installed.

    Commands started from a notebook inherit such a name, and `import matplotlib` would fail.
    """
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
            matplotlib.rcParams["backend"] = named  # as its import does, for the user's later code
    return matplotlib


def figure(title: str, note: str = "", *, size: tuple[float, float] = (8, 4.5)) -> Figure:
    """Return an empty Figure of `size` inches at 120 dpi, with title and note at its top left."""
    _matplotlib()
    from matplotlib.figure import Figure

    made = Figure(figsize=size, dpi=DPI)
    width, height = size
    note = textwrap.fill(note, int(13.2 * width))  # characters per inch at 9.5 points
    head = 0.42 + 0.165 * len(note.splitlines())
    made.set_layout_engine("constrained", rect=(0, 0, 1, 1 - head / height))
    style: Style = {"x": 0.12 / width, "ha": "left", "va": "top"}
    bold: Style = {"fontsize": 12.5, "fontweight": "bold", "color": INK}
    made.suptitle(title, y=1 - 0.12 / height, **style, **bold)
    made.text(s=note, y=1 - 0.39 / height, color=MUTED, **style)
    return made


def plot(made: Figure, *, x: str, y: str, grid: Grid = "y") -> Axes:
    """Return the axes of the Figure, with names and a light grid along `grid`."""
    axes = made.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if grid:
        axes.grid(axis=grid)
    return axes


def pictures(made: Figure, *, width: float, height: float) -> Axes:
    """Return axes without a frame, in units of one picture width, y downwards: for galleries."""
    axes = made.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal", anchor="NW")
    return axes


def colours(values: np.ndarray, name: str = "inferno") -> np.ndarray:
    """Colour `values` in [0, 1] (...) with a perceptually uniform map; return uint8 (..., 3)."""
    painted: np.ndarray = _matplotlib().colormaps[name](values, bytes=True)
    return painted[..., :3]


def save(made: Figure, path: Path) -> Path:
    """Write the Figure as a PNG; return `path`. Raises OutputError."""
    with writing(path), warnings.catch_warnings():
        # A class may be named in any alphabet; the page has the reader's fonts, a PNG this one.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        made.savefig(path, format="png", backend="agg", metadata={"Software": None})
    return path
