"""A trained network together with its preprocessing: what a run is used for after training.

Explain, predict, serve and export all open a run through `load`, so that they cannot differ.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Loader, Split
from ..data.preprocessing import Preprocessing
from ..engine.build import AMP
from ..errors import CheckpointError
from ..loaders import build as loaders
from ..machine import auto
from ..models.build import network
from ..recipe.recipe import Recipe
from ..storage import checkpoint
from ..storage.paths import path as checked


class Classifier:
    """A network in eval mode with its weights, its preprocessing and the names of its classes."""

    def __init__(
        self,
        module: nn.Module,
        preprocessing: Preprocessing,
        *,
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        self.module = module.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.preprocessing, self.recipe, self.device = preprocessing, recipe, device

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by number."""
        return self.preprocessing.classes

    def inputs(self, prepared: np.ndarray) -> Tensor:
        """Prepared images, uint8 (N, S, S, 3), as the network's input: normalised, on the device.

        They go through the loader that evaluates in training, so that the numbers are its own.
        """
        return torch.cat([images for images, _ in self._batches(prepared, len(prepared))])

    def probabilities(
        self, prepared: np.ndarray, *, flips: bool = False, batch_size: int | None = None
    ) -> np.ndarray:
        """The probabilities, float32 (N, classes), of prepared images, uint8 (N, S, S, 3).

        In the precision that training evaluated in. `flips` averages the logits with those of the
        mirror images. Batches are full, the last one with copies of its last image: an image gets
        the same numbers wherever it stands.
        """
        if not len(prepared):
            return np.zeros((0, len(self.classes)), np.float32)
        most = loaders.evaluation_most(self.preprocessing.side, self.device)
        size = min(batch_size or most, len(prepared))
        amp = AMP[auto.amp(self.recipe.amp, self.device).value]
        precision = torch.autocast(self.device.type, dtype=amp, enabled=amp is not None)
        found = []
        with torch.no_grad(), precision:
            for images, _ in self._batches(prepared, size):
                missing = size - len(images)
                if missing:
                    images = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)])
                    images = images.contiguous(memory_format=torch.channels_last)
                logits = self.module(images)
                if flips:
                    logits = (logits + self.module(images.flip(3))) / 2
                found.append(logits[: size - missing].float().softmax(dim=1))
        return torch.cat(found).cpu().numpy()

    def _batches(self, prepared: np.ndarray, size: int) -> Loader:
        split = Split(prepared, np.zeros(len(prepared), np.int64))
        scale = self.preprocessing.statistics
        return loaders.evaluation_loader(self.recipe, split, self.device, scale, batch_size=size)


def load(run: str | os.PathLike[str], *, device: str = "auto") -> Classifier:
    """The best network of a run, or the network of one checkpoint file.

    Raises CheckpointError if there is none, or not one of fasttrain; EnvironmentProblem if the
    machine does not have `device`.
    """
    file = checked(run)
    if file.is_dir():
        file = file / "checkpoints" / "best.pt"
    classifier, _ = open_checkpoint(file, here={"device": device})
    return classifier


def open_checkpoint(file: Path, *, here: dict[str, Any]) -> tuple[Classifier, dict | None]:
    """The network in a checkpoint file, and what origin.about had said of its data.

    `here` holds the fields of its Recipe that are this machine's, `device` at least.
    """
    state = checkpoint.load(file)
    try:
        recipe = Recipe.saved({**state["recipe"], **here})
        kept = state.get("data")
        scale = Preprocessing.saved(kept, recipe)
        model = network(recipe, classes=len(scale.classes), side=scale.side)
        weights = state["model"] if "model" in state else state["step"]["model"]
        model.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(
            f"checkpoint ({file}): does not fit this network ({first}). "
            "Name a run that this version of fasttrain trained."
        ) from None
    where = auto.device(recipe.device)
    auto.make_current(where)
    return Classifier(model, scale, recipe=recipe, device=where), kept
