"""A trained network together with its preprocessing: what a run is used for after training.

Explain, predict, serve and export all open a run through `load`, so that they cannot differ.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Loader, Split
from ..data.preprocessing import Preprocessing
from ..engine.build import AMP
from ..engine.choices import recorded
from ..errors import CheckpointError
from ..loaders import build as loaders
from ..machine import auto
from ..models.build import network
from ..recipe.recipe import Recipe
from ..storage import checkpoint
from ..storage.paths import path as checked
from . import inputs, stream
from .prediction import Prediction, check_top, prediction


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

    @property
    def batch_size(self) -> int:
        """Images that are computed at once, as in training's evaluations."""
        return loaders.evaluation_most(self.preprocessing.side, self.device)

    def predict(
        self,
        images: Any,
        *,
        top: int = 1,
        flips: bool = False,
        threshold: float = 0.0,
        batch_size: int | None = None,
    ) -> list[Prediction]:
        """What the network says about each image, in order.

        `images` is one of these or any number of them: a path of a file, folder, csv, npz or glob;
        the bytes of an image file; an array uint8 (H, W, 3) of any size, or (N, H, W, 3); an image
        of Pillow. All become pixels as the training images did. A file that cannot be used gives a
        Prediction with an `error`. `top` is how many classes each is to name, `flips` averages over
        the image and its mirror image, below the probability `threshold` no class is named. A
        batch is always computed whole: for a single image `batch_size=1` is quicker, and may differ
        in the last bits. Raises UsageError for what can be no image.
        """
        check_top(top, self.classes)
        items = inputs.of_python(images, self.classes)
        found = stream.answers(self, items, flips=flips, batch_size=batch_size)
        named = partial(prediction, classes=self.classes, top=top, threshold=threshold)
        return [named(answer) for batch in found for answer in batch]

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
        mirror images. Every batch is full, the last one with copies of its last image: an image
        gets the same numbers wherever it stands and however many there are. Another `batch_size`
        than the default can change their last bits.
        """
        if not len(prepared):
            return np.zeros((0, len(self.classes)), np.float32)
        size = batch_size or self.batch_size
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
        best = file / "checkpoints" / "best.pt"
        if not best.exists():
            raise CheckpointError(
                f"run ({file}): has no checkpoints/best.pt: it is no run of fasttrain, or finished "
                "no epoch. Name a run directory or a checkpoint."
            )
        file = best
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
    trained = (recorded(state) or {}).get("amp")
    if recipe.amp == "auto" and trained in auto.precisions(where):
        recipe = replace(recipe, amp=trained)
    return Classifier(model, scale, recipe=recipe, device=where), kept
