"""Images with Grad-CAM maps as pixels, and pixels as PNG files.

Figures and page show the same tiles. numpy and zlib suffice to make them.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from .style import colours

# Opacity where the map is 1: more hides the image, less is lost on bright images.
STRENGTH = 0.65
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def enlarged(image: np.ndarray, factor: int) -> np.ndarray:
    """Return `image` (H, W, ...) enlarged by an integer `factor`, without smoothing."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def stretched(heat: np.ndarray, side: int) -> np.ndarray:
    """Resample a map (H, W) bilinearly to (side, side), with aligned pixel centres."""
    heat = np.nan_to_num(heat.astype(float)).clip(0, 1)
    rows, columns = (np.arange(n, dtype=float) for n in heat.shape)
    down, across = ((np.arange(side) + 0.5) * n / side - 0.5 for n in heat.shape)
    wide = np.array([np.interp(across, columns, row) for row in heat])
    return np.array([np.interp(down, rows, column) for column in wide.T]).T


def overlay(image: np.ndarray, heat: np.ndarray, factor: int = 3) -> np.ndarray:
    """Draw a map (h, w) in [0, 1] in colour over `image` (N, N, 3) in grey, enlarged by `factor`.

    The opacity of the map is proportional to its value. Returns uint8.
    """
    grey = enlarged(image @ LUMA, factor)[..., None]
    wide = stretched(heat, len(grey))
    opacity = STRENGTH * wide[..., None]
    return np.round((1 - opacity) * grey + opacity * colours(wide)).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    """Encode uint8 (H, W, 3) as a PNG file."""
    height, width, _ = image.shape
    flat = image.reshape(height, -1).astype(np.int16)
    # Filter 1 stores differences to the pixel on the left: a fifth smaller on photographs.
    flat[:, 3:] -= image.reshape(height, -1)[:, :-3]
    rows = np.insert((flat & 255).astype(np.uint8), 0, 1, axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    tail = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + tail


def data_uri(image: np.ndarray) -> str:
    """Encode uint8 (H, W, 3) as a data: URI of a PNG."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode("ascii")
