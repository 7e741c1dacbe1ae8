"""Preprocessing, network and softmax as one module, and its trace.

A caller of an exported file passes bytes of an image: no second program has to get the resize and
the normalisation right.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..data.preprocessing import Preprocessing
from ..errors import UsageError, shown
from .resize import fitted

NAMES = ("logits", "probabilities")


class Graph(nn.Module):
    """images uint8 (N, H, W, 3) RGB -> logits and probabilities, float32 (N, classes).

    Without `resizes` H and W are the network's side. Mean and deviation are those of the loaders,
    in levels of 0..255.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, *, resizes: bool = True
    ) -> None:
        super().__init__()
        self.network, self.resizes = network, resizes
        self.side, self.fit = preprocessing.side, preprocessing.fit
        for name, values in zip(("mean", "std"), preprocessing.statistics, strict=True):
            levels = torch.tensor(values, dtype=torch.float64).mul(255).float()
            self.register_buffer(name, levels.view(1, 3, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self.pixels(images)
        logits = self.network((pixels - self.mean) / self.std).float()
        return logits, logits.softmax(dim=1)

    def pixels(self, images: Tensor) -> Tensor:
        """The network's input before normalisation, float32 (N, 3, side, side) in 0..255."""
        if self.resizes:
            return fitted(images, self.side, fit=self.fit)
        return images.permute(0, 3, 1, 2).float()


def trace(graph: Graph, name: str) -> ExportedProgram:
    """The program of `graph`, for any number of images and, where it resizes, images of any size.

    It holds no paths of this machine. Raises UsageError if torch.export cannot trace the network,
    which `name` names.
    """
    side = graph.side
    sizes = {0: Dim("batch"), 1: Dim("height"), 2: Dim("width")}
    # Sizes that are equal in the example would be taken for the same size.
    shape = (2, 2 * side + 3, 2 * side + 5, 3) if graph.resizes else (2, side, side, 3)
    dynamic = sizes if graph.resizes else {0: sizes[0]}
    example = torch.zeros(shape, dtype=torch.uint8)
    try:
        with quiet(), torch.no_grad():
            made = torch.export.export(
                graph, (example,), dynamic_shapes={"images": dynamic}, strict=False
            )
    except Exception as error:  # a network's own code can do anything
        raise UsageError(
            f"--format (onnx, pt2): torch.export cannot trace {name}: {cause(error)}. Rewrite it "
            "without Python that depends on its input, or use --format safetensors."
        ) from error
    for module in made.graph_module.modules():
        for node in getattr(module, "graph", torch.fx.Graph()).nodes:
            node.meta.pop("stack_trace", None)
    return made


def cause(error: BaseException) -> str:
    """What was wrong at first, in one line: torch's exporters wrap an error in their own advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return shown(f"{type(error).__name__}: {first.strip()}".rstrip(":. "), 250)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch's exporters log, print and warn about: packages that are not needed, the
    rules that were applied, the whole graph before an error."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
