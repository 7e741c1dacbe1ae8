"""model.safetensors and its config.json with timm's keys.

The weights alone: who opens them needs the network's code. timm has that of its own networks and of
the ResNets above 128 pixels, whose stem is the published one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..data.preprocessing import Preprocessing
from ..models.build import network
from ..models.own import TIMM
from ..models.resnet import stem
from ..models.weights import SHORTCUT, SHORTCUT_ELSEWHERE
from ..recipe.recipe import Recipe
from .graph import Graph
from .pt2_file import answering
from .verify import Runtime

CROP_MODES = {"crop": "center", "squash": "squash", "pad": "border"}  # timm's words
FROM_TIMM = ("first_conv", "classifier", "fixed_input_size")  # of timm's own networks


def timm_name(recipe: Recipe, side: int) -> str | None:
    """The name under which timm has this very network, or None."""
    if recipe.model.startswith(TIMM):
        return recipe.model.removeprefix(TIMM)
    return recipe.model if _is_published(recipe, side) else None


def _is_published(recipe: Recipe, side: int) -> bool:
    """Whether this is a ResNet of ours with the stem of the paper, which timm has."""
    return recipe.model.startswith("resnet") and stem(1, side)[1]


def write(module: nn.Module, recipe: Recipe, side: int) -> bytes:
    """The content of model.safetensors: the weights under timm's names where timm has the network,
    else under the network's own."""
    from safetensors.torch import save

    # Copies: safetensors refuses tensors that share memory.
    tensors = {
        name: each.detach().cpu().contiguous().clone() for name, each in module.state_dict().items()
    }
    if _is_published(recipe, side):
        tensors = {n.replace(SHORTCUT, SHORTCUT_ELSEWHERE): each for n, each in tensors.items()}
    return save(tensors, metadata={"format": "pt"})


def config(module: nn.Module, recipe: Recipe, preprocessing: Preprocessing) -> dict[str, Any]:
    """The content of config.json; an `architecture` that timm does not have begins with
    fasttrain/, so that it is refused and not taken for another network."""
    side = preprocessing.side
    theirs = getattr(module, "pretrained_cfg", None) or {}
    more = {name: theirs[name] for name in FROM_TIMM if name in theirs}
    if _is_published(recipe, side):
        more = {"first_conv": "conv1", "classifier": "fc"}
    return {
        "architecture": timm_name(recipe, side) or f"fasttrain/{recipe.model}",
        "num_classes": len(preprocessing.classes),
        "label_names": list(preprocessing.classes),
        "pretrained_cfg": {
            "num_classes": len(preprocessing.classes),
            "label_names": list(preprocessing.classes),
            "input_size": [3, side, side],
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": CROP_MODES[preprocessing.fit],
            **more,
        },
    }


def read(path: Path, recipe: Recipe, preprocessing: Preprocessing, *, resizes: bool) -> Runtime:
    """model.safetensors in a new network of the same recipe, behind the same preprocessing."""
    from safetensors.torch import load_file

    made = network(recipe, classes=len(preprocessing.classes), side=preprocessing.side)
    tensors = load_file(path)
    if _is_published(recipe, preprocessing.side):
        tensors = {n.replace(SHORTCUT_ELSEWHERE, SHORTCUT): t for n, t in tensors.items()}
    made.load_state_dict(tensors)
    return answering(Graph(made, preprocessing, resizes=resizes))
