"""Turns one image file into one small RGB array, by a fixed rule: upright, 8 bits, antialiased.

Preparing and predicting share the rule, so a network sees the same pixels in both. The rule: apply
the EXIF turn; convert to RGB as Pillow does (16 bits scaled to 8, alpha dropped, which is also what
DALI does); take the central square for `crop`, or add a black border for `pad`; resize once,
bilinearly, with Pillow's antialiasing.

NumPy is imported where it is needed: without it a worker process starts in 60 % of the time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    import numpy as np

RULE = 2  # increase it whenever the resulting pixels change
FITS = ("crop", "squash", "pad")
SIDES = (32, 64, 128, 224)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
MODULES = ("Jpeg", "Png", "WebP", "Bmp", "Gif", "Tiff", "Ppm", "Avif")  # of Pillow, for FORMATS
EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif"}
EXTENSIONS |= {".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif"}
MOST_PIXELS = 100_000_000
ORIENTATION = 0x0112  # EXIF's tag; 5 to 8 swap height and width
ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


class Unusable(Exception):
    """Why a file cannot be used, in a few words."""


def auto_side(shorter: Sequence[int]) -> int:
    """The largest of SIDES that does not enlarge the median image, and at least 32.

    `shorter` is the shorter side of each image in pixels, of at least one.
    """
    ordered, count = sorted(shorter), len(shorter)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return max((side for side in SIDES if side <= middle), default=SIDES[0])


def opened(file: BinaryIO) -> Image.Image:
    """Open the image in `file` and read its header; nothing is decoded.

    Raises Unusable if it is not an image, or one of more than 100 megapixels.
    """
    try:
        image = Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        raise Unusable("not an image that Pillow knows, or a damaged header") from None
    except Image.DecompressionBombError:
        raise Unusable(_too_large()) from None
    # What else Pillow raises for damaged files is not documented, and is of many kinds.
    except Exception as error:
        raise Unusable(reason(error)) from None
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise Unusable(f"{width:,} x {height:,}: {_too_large()}")
    if not width * height:
        raise Unusable("no pixels")
    return image


def header(image: Image.Image) -> tuple[int, int, str, str]:
    """Return upright height and width, mode and note of an image, from its header alone."""
    width, height = image.size
    turn, notes = _turn(image), []
    # Pillow gives a TIFF's size upright already.
    if turn in (5, 6, 7, 8) and image.format != "TIFF":
        width, height = height, width
    if turn != 1:
        notes.append(f"EXIF {turn}")
    if image.mode.startswith("I"):
        notes.append("16-bit")
    if image.mode in ALPHA or "transparency" in image.info:
        notes.append("alpha")
    if getattr(image, "is_animated", False):
        notes.append("first frame of several")
    return height, width, image.mode, ", ".join(notes)


def pixels(image: Image.Image, side: int, *, fit: str = "crop") -> np.ndarray:
    """Return the image as uint8 (side, side, 3) RGB, by the rule above; Unusable if damaged."""
    import numpy as np

    return np.frombuffer(small(image, side, fit=fit), np.uint8).reshape(side, side, 3)


def small(image: Image.Image, side: int, *, fit: str = "crop") -> bytes:
    """Return the same as bytes."""
    try:
        image.load()
        image = _rgb(ImageOps.exif_transpose(image) if _turn(image) != 1 else image)
        return _fitted(image, side, fit).tobytes()  # half the time of np.asarray
    except (Unusable, MemoryError):
        raise
    except Exception as error:  # as above
        raise Unusable(reason(error)) from None


def _fitted(image: Image.Image, side: int, fit: str) -> Image.Image:
    width, height = image.size
    if fit == "crop" and width != height:
        short = min(width, height)
        left, top = (width - short) // 2, (height - short) // 2
        image = image.crop((left, top, left + short, top + short))
    if fit == "pad" and width != height:
        scale = side / max(width, height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        canvas = Image.new("RGB", (side, side))
        corner = (side - inner[0]) // 2, (side - inner[1]) // 2
        canvas.paste(_resized(image, inner), corner)
        return canvas
    return _resized(image, (side, side))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Columns first, then rows, as Pillow did until 12; from 13 on it takes the rows of some images
    first, which rounds a fifth of their numbers differently."""
    if image.width != image.height:
        image = image.resize((size[0], image.height), Image.Resampling.BILINEAR)
    return image.resize(size, Image.Resampling.BILINEAR)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        from . import depths  # which imports NumPy

        return depths.eight_bits(image).convert("RGB")
    for premultiplied, plain in (("RGBa", "RGBA"), ("La", "LA")):
        if image.mode == premultiplied:
            image = image.convert(plain)
    return image.convert("RGB")


def _turn(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1 if there is none or it is damaged."""
    try:
        # A PNG's own getexif would decode the whole image at once.
        unread = image.format == "PNG" and "exif" not in image.info
        turn = 1 if unread else image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block is no reason to refuse a good image
        return 1
    return turn if type(turn) is int and 1 <= turn <= 8 else 1


def reason(error: Exception) -> str:
    """Describe a decoder's error in a few words on one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return f"damaged: {words[:120]}"


def _too_large() -> str:
    return f"more than {MOST_PIXELS // 1_000_000} megapixels"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings: damaged EXIF, large images, palettes with alpha.

    Enter it in the thread that starts the others, because warning filters are global.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Return those of FORMATS that this Pillow reads. Image.init would import forty others."""
    for name in MODULES:
        with suppress(ImportError):
            import_module(f"PIL.{name}ImagePlugin")
    return tuple(name for name in FORMATS if name in Image.OPEN)
