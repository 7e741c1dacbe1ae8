"""A training step as one CUDA graph: forward, loss, backward and update in a single launch.

At small batches a GPU waits for the host to launch kernel after kernel. Not measured: nothing here
has run on a GPU yet, so `auto` leaves it off.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .lr_finder import restored
from .step import Step

WARM_UP = 3  # steps before a capture: torch asks for some on a stream of their own
Work = Callable[[], tuple[Tensor, ...]]
Capture = Callable[[Work], tuple[Callable[[], None], tuple[Tensor, ...]]]
"""work -> what replays it, and the tensors that every replay fills."""


def cuda_graph(
    work: Work, *, device: torch.device
) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
    """Capture `work` on a CUDA device, after running it a few times to warm up."""
    with torch.cuda.device(device):
        here, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                work()
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # The loader's threads may allocate meanwhile, which a global capture would not survive.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = work()
    return graph.replay, outputs


class Replayed:
    """`work` captured over buffers of its own, which every call fills before it replays."""

    def __init__(
        self, work: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...], capture: Capture
    ) -> None:
        self.buffers = [tensor.clone() for tensor in inputs]  # a clone keeps channels_last
        self._replay, self._outputs = capture(lambda: work(*self.buffers))

    def fits(self, *inputs: Tensor) -> bool:
        """Whether the inputs have the shapes and dtypes that were captured."""
        pairs = zip(self.buffers, inputs, strict=True)
        return all(one.shape == two.shape and one.dtype == two.dtype for one, two in pairs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What `work` gives for the inputs, in tensors that the next call overwrites."""
        for buffer, given in zip(self.buffers, inputs, strict=True):
            buffer.copy_(given, non_blocking=True)
        self._replay()
        return self._outputs


class GraphedStep(Step):
    """`step` captured at the shapes of its first training and its first test batch.

    Batches of other shapes run as they did. Capturing trains a few steps, which are undone. The
    loss and logits of a training step are overwritten by the next one. The learning rate has to be
    a tensor, which is filled in place; float16's loss scale is not captured: see choices.graphs.
    """

    def __init__(self, step: Step, capture: Capture | None = None) -> None:
        vars(self).update(vars(step))
        if not isinstance(self.lr, Tensor) or self.scaler.is_enabled():
            raise ValueError("a graph needs the learning rate in a tensor, and no loss scale")
        self._capture = capture or partial(cuda_graph, device=self.device)
        self._step: Replayed | None = None
        self._test: Replayed | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self._step is None:
            with restored(self):
                self._step = Replayed(super().__call__, (images, labels), self._capture)
        if not self._step.fits(images, labels):
            return super().__call__(images, labels)
        loss, logits = self._step(images, labels)
        return loss, logits

    def predict(self, images: Tensor) -> Tensor:
        """As Step.predict; the logits are the caller's to keep."""
        if self._test is None:
            plain = super().predict
            self._test = Replayed(lambda given: (plain(given),), (images,), self._capture)
        if not self._test.fits(images):
            return super().predict(images)
        return self._test(images)[0].clone()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As Step.load_state_dict; momentum comes in new tensors, so that the step is captured
        anew."""
        super().load_state_dict(state)
        self._step = None
