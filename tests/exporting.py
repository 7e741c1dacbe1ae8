"""The commands of docs/deploy.md, and images of many sizes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np

PAGE = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text(encoding="utf-8")
SIZES = [(1, 1), (1, 300), (300, 1), (32, 32), (64, 48), (500, 300), (300, 500), (7, 5), (33, 31)]
SIZES += [(18, 4), (57, 19), (68, 17), (640, 480), (31, 224), (224, 224), (225, 223), (999, 40)]


def commands() -> list[list[str]]:
    """The commands of the page, each as the words after `python -m fasttrain`."""
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words[3:] for words in lines if words[:3] == ["python", "-m", "fasttrain"]]


def noise(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Random bytes; every third image is black and white, so that sums lie on rounding's edges."""
    random = np.random.default_rng((seed, height, width))
    found = random.integers(0, 256, (height, width, 3), np.uint8)
    return (found > 127).astype(np.uint8) * 255 if seed % 3 == 0 else found
