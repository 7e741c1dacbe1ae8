"""Draws what each augmentation does to one image, and measures what it costs, for docs/recipes.md.

python -m benchmarks.augmentation IMAGE OUT   IMAGE is any photograph, such as scikit-image's cat
python -m benchmarks.augmentation             prints the images per second of CPU time

A row is a flag, a column an epoch. The pixels are those of the training loader, not a likeness.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from fasttrain.data import Split, Statistics
from fasttrain.loaders import build
from fasttrain.recipe.recipe import Recipe

SIDE, EPOCHS, GAP, LEFT = 72, 6, 4, 190  # pixels; LEFT is the width of the words
OFF: dict[str, object] = {"crop_padding": 0, "flip": 0.0, "cutout": 0}
DEFAULTS: dict[str, object] = {"crop_padding": 4, "flip": 0.5, "cutout": 8}
TURNED: dict[str, object] = {"rotate": 15.0, "zoom": "0.8,1.25"}
COLOURED: dict[str, object] = {"brightness": 0.4, "contrast": 0.5, "saturation": 1.0}
ROWS: dict[str, dict[str, object]] = {
    "the defaults": DEFAULTS,
    "--rotate 15": {"rotate": 15.0},
    "--zoom 0.8,1.25": {"zoom": "0.8,1.25"},
    "--brightness 0.4": {"brightness": 0.4},
    "--contrast 0.5": {"contrast": 0.5},
    "--saturation 1": {"saturation": 1.0},
    "all, --border reflect": {**DEFAULTS, **TURNED, **COLOURED, "border": "reflect"},
}
COST = {"off": {}, "turned and zoomed": TURNED, "and recoloured": {**TURNED, **COLOURED}}
IMAGES, REPEATS = 5120, 11


def shown(image: np.ndarray, fields: dict[str, object]) -> list[np.ndarray]:
    """The image in the first epochs of a recipe, each uint8 (SIDE, SIDE, 3)."""
    split = Split(image[None], np.zeros(1, np.int64))
    # A hole is 0 after normalising: this mean makes it grey.
    scale = Statistics((0.5,) * 3, (1.0,) * 3)
    loader = build.training_loader(Recipe(**{**OFF, **fields}), split, 1, scale)
    pixels = [next(iter(loader)).images[0].permute(1, 2, 0).numpy() for _ in range(EPOCHS)]
    return [((each + 0.5) * 255).round().clip(0, 255).astype(np.uint8) for each in pixels]


def page(image: np.ndarray) -> Image.Image:
    """The grid of all rows."""
    step = SIDE + GAP
    made = Image.new("RGB", (LEFT + EPOCHS * step, len(ROWS) * step - GAP), "white")
    write = ImageDraw.Draw(made)
    for row, (words, fields) in enumerate(ROWS.items()):
        write.text((0, row * step + SIDE // 2 - 8), words, fill="black", font_size=16)
        for column, pixels in enumerate(shown(image, fields)):
            made.paste(Image.fromarray(pixels), (LEFT + column * step, row * step))
    return made


def seconds(batches: Iterable[object]) -> float:
    """The CPU time of one epoch, which other programs change less than its time on the clock."""
    began = time.process_time()
    for _ in batches:
        pass
    return time.process_time() - began


def costs() -> None:
    """Print the images of 32x32 that one thread makes per second of CPU time, by both loaders."""
    torch.set_num_threads(1)
    random, device = np.random.default_rng(0), torch.device("cpu")
    pixels = random.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    split, scale = Split(pixels, np.zeros(IMAGES, np.int64)), Statistics((0.5,) * 3, (0.25,) * 3)
    for kind in ("resident", "dali"):
        made = {
            name: build.loader(kind, Recipe(**fields), device, split, training=True, scale=scale)
            for name, fields in COST.items()
        }
        times = [{name: seconds(batches) for name, batches in made.items()} for _ in range(REPEATS)]
        for name in made:
            middle = statistics.median(each[name] for each in times[1:])
            print(f"{kind}, {name}: {IMAGES / middle:,.0f} images/s (n = {REPEATS - 1})")


def main() -> None:
    if not sys.argv[1:]:
        costs()
        return
    given, out = sys.argv[1:]
    with Image.open(given) as opened:
        image = ImageOps.fit(opened.convert("RGB"), (SIDE, SIDE))
    page(np.asarray(image)).save(Path(out), quality=75)


if __name__ == "__main__":
    main()
