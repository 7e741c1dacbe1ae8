"""Cuts photographs into tiles of mixed sizes, modes and formats: a folder as people have one.

python -m benchmarks.photographs FOLDER   pip install scikit-image first: its wheel has the pictures

A class is a photograph. Tiles do not overlap, so what is held out was not seen. Some files are
spoilt as files get spoilt, unless --whole is given. docs/own-images.md shows a run on it.
"""

from __future__ import annotations

import argparse
import importlib.util
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image

# Free of rights, as skimage/data/_fetchers.py says: CC0 or public domain (NASA, SpaceX).
PICTURES = {
    "astronaut": "astronaut.png",
    "bricks": "brick.png",
    "cameraman": "camera.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "galaxies": "hubble_deep_field.jpg",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}
SIZES = (40, 121)  # pixels along a tile, from and below
MOST = 90  # tiles of a class
Save = Callable[[Image.Image, Path], None]
# What undoes each EXIF turn: the file's pixels are turned so that a viewer turns them upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def in_mode(mode: str, ending: str) -> Save:
    """Save in a mode of Pillow's."""
    return lambda tile, path: tile.convert(mode).save(path.with_suffix(ending))


def turned(turn: int) -> Save:
    """Save a JPEG that its EXIF turns upright."""

    def save(tile: Image.Image, path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = turn
        tile = tile.convert("RGB").transpose(TURNS[turn]) if turn in TURNS else tile.convert("RGB")
        tile.save(path.with_suffix(".JPG"), exif=exif, quality=92)

    return save


def sixteen_bits(ending: str) -> Save:
    """Save 16-bit gray."""

    def save(tile: Image.Image, path: Path) -> None:
        gray = np.asarray(tile.convert("L")).astype(np.uint16) * 257
        Image.fromarray(gray).save(path.with_suffix(ending))

    return save


PLAIN = in_mode("RGB", ".jpg")
ODD: list[Save] = [
    *(in_mode(mode, ".png") for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
    *(in_mode("RGB", ending) for ending in (".webp", ".bmp", ".tif", ".gif", ".ppm")),
    *(in_mode("CMYK", ending) for ending in (".jpeg", ".tiff")),
    sixteen_bits(".png"),
    sixteen_bits(".tif"),
    in_mode("L", ".jpg"),
    *(turned(turn) for turn in range(1, 9)),
]


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has `side` x `side` pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def spoil(root: Path) -> list[Path]:
    """Spoil some files in every way, and put others there that are no images; the spoilt ones."""
    jpeg, png = sorted(root.rglob("*.jpg")), sorted(root.rglob("*.png"))
    for path in (jpeg[5], jpeg[50], png[5]):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Image.open(png[20]) as tile:  # a JPEG called .png: that is no damage
        tile.convert("RGB").save(png[20], format="JPEG")
    jpeg[30].write_bytes(b"")
    jpeg[40].write_text("<html>404 Not Found</html>")
    flipped = bytearray(png[40].read_bytes())
    flipped[len(flipped) // 2] ^= 0xFF
    png[40].write_bytes(flipped)
    first = png[0].parent
    (first / "enormous.png").write_bytes(bomb(30_000))
    (first / "copy of another class.jpg").write_bytes(jpeg[-1].read_bytes())
    (first / "notes.txt").write_text("the left ones are sharper")
    (first / ".DS_Store").write_bytes(bytes(100))
    (root / "empty class").mkdir()
    spoilt = [jpeg[number] for number in (5, 30, 40, 50)] + [png[number] for number in (5, 40)]
    return [*spoilt, first / "enormous.png"]


def tiles(
    picture: Image.Image, random: np.random.Generator, sizes: tuple[int, int]
) -> Iterator[Image.Image]:
    """Tiles of random sizes, in rows: none overlaps another."""
    top = 0
    while (height := int(random.integers(*sizes))) <= picture.height - top:
        left = 0
        while (width := int(random.integers(*sizes))) <= picture.width - left:
            yield picture.crop((left, top, left + width, top + height))
            left += width
        top += height


def cut(pictures: Path, root: Path, *, sizes: tuple[int, int] = SIZES) -> int:
    """Write the folders of tiles; the number of tiles."""
    random, written, odd = np.random.default_rng(0), 0, cycle(ODD)
    for name, file in PICTURES.items():
        (root / name).mkdir(parents=True)
        with Image.open(pictures / file) as picture:
            found = list(tiles(picture, random, sizes))
        chosen = random.permutation(len(found))[:MOST]
        for number, place in enumerate(chosen):
            save = next(odd) if number % 2 else PLAIN
            save(found[place], root / name / f"{name} {number:02}.x")
        written += len(chosen)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=Path, help="scikit-image's data folder")
    parser.add_argument("--whole", action="store_true", help="spoil nothing")
    asked = parser.parse_args()
    pictures = asked.pictures
    if pictures is None:
        spec = importlib.util.find_spec("skimage")
        if spec is None or spec.origin is None:
            raise SystemExit("scikit-image is not installed: pip install scikit-image")
        pictures = Path(spec.origin).parent / "data"
    written = cut(pictures, asked.folder)
    spoilt = 0 if asked.whole else len(spoil(asked.folder))
    print(f"{written} tiles in {asked.folder}, {spoilt} files spoilt")


if __name__ == "__main__":
    main()
