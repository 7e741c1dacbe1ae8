"""Opens a trained run to be explained: its best network, its recipe and its data.

The run may come from another machine, so this uses any device, the eager network and no DALI.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..data import Data, Split, origin
from ..engine import build
from ..models.stages import check_layer
from ..predict.classifier import Classifier, open_checkpoint
from ..recipe.recipe import Recipe
from .one_image import stages_of


class Subject(NamedTuple):
    """A trained classifier and its data."""

    classifier: Classifier
    data: Data

    @property
    def model(self) -> torch.nn.Module:
        """The network."""
        return self.classifier.module

    @property
    def recipe(self) -> Recipe:
        """What it was trained with."""
        return self.classifier.recipe

    @property
    def train(self) -> Split:
        """The training images."""
        return self.data.train

    @property
    def analysed(self) -> Split:
        """The images that are predicted: test, or val if no other split is held out."""
        return self.data.test

    @property
    def split(self) -> str:
        """The name of `analysed`: test or val."""
        return self.data.chooses if self.data.val is None else "test"

    @property
    def files(self) -> list[str]:
        """The paths of those images within the data set, if they are a person's own; else none."""
        listing = self.data.listing
        return [] if listing is None else [row.path for row in listing.of_split(self.split)]

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the modules whose activations Grad-CAM uses: the one that is asked for, or
        the network's stages."""
        return stages_of(self.classifier)


def open_run(
    run: Path,
    *,
    device: str = "auto",
    cache_dir: str | None = None,
    cam_layer: str | None = None,
    data: Data | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Subject:
    """Load the best network of a run, and its data; CheckpointError if there is no usable one.

    The data come from `cache_dir`, else the user's cache. `cam_layer` is the module whose maps are
    shown, else it is found; UsageError if it has none.
    """
    classifier, kept = open_classifier(run, device=device, cache_dir=cache_dir, cam_layer=cam_layer)
    found = origin.restored(data or build.splits(classifier.recipe, log=log), kept)
    return Subject(classifier, found)


def open_classifier(
    run: Path,
    *,
    device: str = "auto",
    cache_dir: str | None = None,
    cam_layer: str | None = None,
) -> tuple[Classifier, dict[str, Any] | None]:
    """Load the best network of a run without its data; raises what `open_run` raises.

    The second value is what origin.about had said of the data.
    """
    here = {"device": device, "cache_dir": cache_dir, "cam_layer": cam_layer}
    classifier, kept = open_checkpoint(run / "checkpoints" / "best.pt", here=here)
    if cam_layer is not None:
        check_layer(classifier.module, cam_layer, side=classifier.preprocessing.side)
    return classifier, kept
