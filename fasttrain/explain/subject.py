"""Opens a trained run to be explained: its best network, its recipe and its data.

The run may come from another machine, so this uses any device, the eager network and no DALI.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from ..data import Data, Split, origin
from ..engine import build
from ..errors import CheckpointError
from ..machine import auto
from ..models.build import network
from ..models.stages import check_layer, stages
from ..recipe.recipe import Recipe
from ..storage import checkpoint


class Subject(NamedTuple):
    """A trained network, its recipe and its data."""

    model: torch.nn.Module
    recipe: Recipe
    device: torch.device
    data: Data

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
    def stages(self) -> tuple[str, ...]:
        """The names of the modules whose activations Grad-CAM uses: the one that is asked for, or
        the network's stages."""
        asked = self.recipe.cam_layer
        return (asked,) if asked else stages(self.model, side=self.data.side)


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
    state = checkpoint.load(run / "checkpoints" / "best.pt")
    try:
        here = {"device": device, "cache_dir": cache_dir, "cam_layer": cam_layer}
        recipe = Recipe.saved({**state["recipe"], **here})
        kept = state.get("data")
        classes, side = (len(kept["classes"]), kept["side"]) if kept else (10, 32)
        model = network(recipe, classes=classes, side=side)
        model.load_state_dict(state["model"])
    except (KeyError, TypeError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(
            f"checkpoint ({run / 'checkpoints' / 'best.pt'}): does not fit this network ({first}). "
            "Name a run that this version of fasttrain trained."
        ) from None
    where = auto.device(device)
    auto.make_current(where)
    model = model.to(where).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if cam_layer is not None:
        check_layer(model, cam_layer, side=side)
    data = origin.restored(data or build.splits(recipe, log=log), kept)
    return Subject(model.eval(), recipe, where, data)
