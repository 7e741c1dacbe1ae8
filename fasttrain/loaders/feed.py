"""The input of a DALI pipeline: image bytes inside a border, and the draw that belongs to them.

It is separate from the loader because a pipeline keeps a reference to its source: a loader that is
no longer used is then freed at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from .draws import Draws


class Feed:
    """Gives a pipeline every `lanes`-th chunk, epoch after epoch, and records the chunks in flight.

    Chunks are numbered through all epochs, from 0. An image gets a border as wide as any crop has
    reached outside so far. One operator can then crop, flip and normalise: 133,000 images/s, where
    fn.slice before it gave 99,000 (2 cores of a Xeon, chunks of 256, n = 7, alternating).
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
        self.next = first  # the chunk that DALI gets next
        self.fed: deque[int] = deque()  # given to DALI and not yet read from it
        self._lanes, self.chunks = lanes, -(-shown // stride)  # per epoch
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
        # The share of the border that lies above and to the left of the crop.
        top, left = ((crop + self._border) / max(1, 2 * self._border)).T.astype(np.float32)
        # DALI ignores strides, and the draw of a shard has some.
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
        bordered = self._bordered[: len(images)]  # one buffer for all chunks: DALI copies it
        inside = slice(border, border + images.shape[1])
        bordered[:, inside, inside] = images
        return bordered

    def _widen(self, border: int) -> None:
        """Make the border at least `border` pixels wide."""
        if border > self._border:
            side = self._images.shape[1] + 2 * border
            self._border, shape = border, (min(self._stride, self._shown), side, side, 3)
            self._bordered = np.zeros(shape, np.uint8)


class Lane:
    """A pipeline and its Feed; `build` makes the pipeline, and makes it anew after an error."""

    def __init__(self, feed: Feed, build: Callable[[Feed], Any]) -> None:
        self.feed, self._build = feed, build
        self.pipeline = build(feed)

    def read(self, chunk: int, stream: Any) -> Any:
        """The pixels of one chunk; chunks prefetched before a seek are dropped."""
        if chunk not in self.feed.fed:
            self.feed.next = chunk
        while True:
            got, images = self._run(stream)
            if got == chunk:
                return images

    def _run(self, stream: Any) -> tuple[int, Any]:
        """The oldest chunk in flight and its pixels; DALI then takes one more from the Feed."""
        try:
            (images,) = self.pipeline.run(stream)
            return self.feed.fed.popleft(), images
        except BaseException:
            # After an interruption the record of chunks in flight may be wrong: start again.
            self.feed.fed.clear()
            self.pipeline = self._build(self.feed)
            raise
