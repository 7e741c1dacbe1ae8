"""A training step as one CUDA graph: forward, loss, backward, update and metrics in one launch.

At small batches a GPU waits for the host to launch each kernel. Not measured: nothing here has run
on a GPU yet, so `auto` leaves it off.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .lr_finder import restored
from .step import Step

WARM_UP = 3  # steps before a capture: torch requires some on a side stream
Function = Callable[[], tuple[Tensor, ...]]
Capture = Callable[[Function], tuple[Callable[[], None], tuple[Tensor, ...]]]
"""Takes a function; returns its replay and the output tensors that every replay fills."""


def cuda_graph(
    function: Function, *, device: torch.device
) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
    """Capture `function` on a CUDA device, after a few warm-up calls."""
    with torch.cuda.device(device):
        here, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function()
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # The loader's threads may allocate memory meanwhile, which would break a global capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = function()
    return graph.replay, outputs


class CapturedFunction:
    """A function captured over its own input buffers; a call fills them and replays the graph."""

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        inputs: tuple[Tensor, ...],
        capture: Capture,
    ) -> None:
        self.buffers = [tensor.clone() for tensor in inputs]  # a clone keeps channels_last
        self._replay, self._outputs = capture(lambda: function(*self.buffers))

    def fits(self, *inputs: Tensor) -> bool:
        """Whether the inputs have the captured shapes and dtypes."""
        pairs = zip(self.buffers, inputs, strict=True)
        return all(one.shape == two.shape and one.dtype == two.dtype for one, two in pairs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for the inputs, in tensors that the next call overwrites."""
        for buffer, tensor in zip(self.buffers, inputs, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        self._replay()
        return self._outputs


class GraphedStep(Step):
    """A Step captured at the shapes of its first training batch and its first test batch.

    Batches of other shapes run without a graph. Capturing trains a few steps and then undoes them.
    Each training step overwrites the loss and logits of the step before. The learning rate must be
    a tensor, which is filled in place; hooks of the optimizer do not run.
    """

    def __init__(self, step: Step, capture: Capture | None = None) -> None:
        vars(self).update(vars(step))
        if not isinstance(self.lr, Tensor):
            raise ValueError("a CUDA graph needs a learning rate in a tensor")
        self._capture = capture or partial(cuda_graph, device=self.device)
        self._step: CapturedFunction | None = None
        self._test: CapturedFunction | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self._step is None:
            with restored(self, self.sums):
                self._step = CapturedFunction(super().__call__, (images, labels), self._capture)
        if not self._step.fits(images, labels):
            return super().__call__(images, labels)
        loss, logits = self._step(images, labels)
        # A replay runs no Python, and torch's schedules warn of an optimizer that was not called.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]
        return loss, logits

    def predict(self, images: Tensor) -> Tensor:
        """As Step.predict; returns a copy, which no later call overwrites."""
        if self._test is None:
            plain = super().predict
            self._test = CapturedFunction(lambda batch: (plain(batch),), (images,), self._capture)
        if not self._test.fits(images):
            return super().predict(images)
        return self._test(images)[0].clone()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As Step.load_state_dict; momentum has new tensors, so the next step is captured again."""
        super().load_state_dict(state)
        self._step = None
