"""The arrays that DALI is fed, bytes in a border and the draw that goes with them, and by whom.

Apart from the loader, since a pipeline holds on to it: a loader that is left is freed at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from .draws import SIDE, Draws


class Feed:
    """Gives a pipeline every `lanes`-th chunk, epoch after epoch, and keeps account of those in
    flight; chunks are numbered through all epochs, from 0.

    An image goes in with a border as wide as any crop has reached outside so far, which lets
    one operator crop, flip and normalise: 133,000 images/s where fn.slice before it gave 99,000
    (2 cores of a Xeon, chunks of 256, n = 7, in turns).
    """

    def __init__(
        self,
        images: np.ndarray,
        draws: Draws,
        shown: int,
        stride: int,
        *,
        fields: int,
        first: int = 0,
        lanes: int = 1,
        reflect: bool = False,
    ) -> None:
        self.next = first  # the chunk that DALI will be given
        self.fed: deque[int] = deque()  # given to DALI, not yet taken from it
        self._lanes, self.chunks = lanes, -(-shown // stride)  # of an epoch
        self._images, self._draws = images, draws
        self._shown, self._stride, self._fields = shown, stride, fields
        self._border, self._reflect = -1, reflect
        self._widen(0)

    def __call__(self) -> list[np.ndarray]:
        epoch, chunk = divmod(self.next, self.chunks)
        start = chunk * self._stride
        here = slice(start, min(start + self._stride, self._shown))
        order, crop, flip, hole = (field[here] for field in self._draws(epoch + 1))
        self._widen(int(np.abs(crop).max(initial=0)))
        bordered = self._with_border(self._images[order])
        # Of the border that is left over, the share above and to the left of the crop.
        top, left = ((crop + self._border) / max(1, 2 * self._border)).T.astype(np.float32)
        # DALI reads no strides, and a shard's draw has them.
        arrays = [
            bordered,
            np.ascontiguousarray(top),
            np.ascontiguousarray(left),
            flip.astype(np.int32),
            hole.astype(np.float32, order="C"),
        ]
        self.fed.append(self.next)
        self.next += self._lanes
        return arrays[: self._fields]

    def _with_border(self, images: np.ndarray) -> np.ndarray:
        border = self._border
        if self._reflect:
            return np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)), "reflect")
        bordered = self._bordered[: len(images)]  # used again and again: DALI takes a copy
        inside = slice(border, border + SIDE)
        bordered[:, inside, inside] = images
        return bordered

    def _widen(self, border: int) -> None:
        """Have a border of at least so many pixels."""
        if border > self._border:
            side = SIDE + 2 * border
            self._border, shape = border, (min(self._stride, self._shown), side, side, 3)
            self._bordered = np.zeros(shape, np.uint8)


class Lane:
    """A pipeline and what it is fed; `build` makes the pipeline, anew after an interruption."""

    def __init__(self, feed: Feed, build: Callable[[Feed], Any]) -> None:
        self.feed, self._build = feed, build
        self.pipeline = build(feed)

    def read(self, chunk: int, stream: Any) -> Any:
        """The pixels of one chunk; what was prefetched for a place no longer wanted is dropped."""
        if chunk not in self.feed.fed:
            self.feed.next = chunk
        while True:
            got, images = self._run(stream)
            if got == chunk:
                return images

    def _run(self, stream: Any) -> tuple[int, Any]:
        """The oldest chunk that DALI was fed and its pixels; one more is fed in its place."""
        try:
            (images,) = self.pipeline.run(stream)
            return self.feed.fed.popleft(), images
        except BaseException:
            # Interrupted half way, the account of what is in flight may be one off: start over.
            self.feed.fed.clear()
            self.pipeline = self._build(self.feed)
            raise
