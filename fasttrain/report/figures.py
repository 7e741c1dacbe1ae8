"""All figures of a run as PNG files, drawn from its directory alone.

FIGURES lists them. A figure without data is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import classes, curves, galleries
from .files import writing
from .read import Run, read
from .style import save, styled

if TYPE_CHECKING:
    from .style import Figure

FIGURES: dict[str, Callable[[Run], Figure | None]] = {
    "loss": curves.loss,
    "accuracy": curves.accuracy,
    "lr": curves.lr,
    "lr_finder": curves.lr_finder,
    "train_vs_test": curves.train_vs_test,
    "confusion": classes.confusion,
    "class_accuracy": classes.class_bars,
    "samples": galleries.samples,
    "misclassified": galleries.misclassified,
    "gradcam_predicted": galleries.gradcam_predicted,
    "gradcam_true": galleries.gradcam_true,
    "ledger": classes.ledger,
}


def draw_all(run_dir: Path, *, names: Collection[str] = tuple(FIGURES)) -> list[Path]:
    """Write `run_dir`/figures/NAME.png for each figure in `names` with data; return the paths.

    Raises the errors of read(), and OutputError if they cannot be written.
    """
    run, drawn = read(run_dir), []
    folder = run_dir / "figures"
    with styled(), writing(folder):
        folder.mkdir(exist_ok=True)
        for name, draw in FIGURES.items():
            if name in names and (made := draw(run)):
                drawn.append(save(made, folder / f"{name}.png"))
    return drawn


def draw_layers(
    image: np.ndarray,
    rows: Sequence[tuple[str, dict[str, np.ndarray]]],
    *,
    title: str,
    path: Path,
) -> Path:
    """Draw one image and its maps in each layer, a row for each class, as a PNG.

    `image` is uint8 (side, side, 3). A row is a label and maps (H, W) in [0, 1], layer -> map in
    the order to draw. Raises OutputError.
    """
    with styled(), writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return save(galleries.layers(image, rows, title=title), path)
