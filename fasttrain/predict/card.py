"""What a person needs to know to use a run's weights elsewhere: the content of model.json.

The checkpoint holds the same and is what fasttrain reads; this is for people and other programs.
"""

from __future__ import annotations

import hashlib
from typing import Any

from torch import nn

from ..data.preprocessing import Preprocessing
from ..recipe.recipe import Recipe
from ..storage.encode import encode, to_json

FORMAT = 1
INPUT = "float (N, 3, side, side): red, green, blue; (value / 255 - mean) / std of each channel"
OUTPUT = "logits (N, classes); their softmax is the probabilities"


def about(recipe: Recipe, preprocessing: Preprocessing, module: nn.Module) -> dict[str, Any]:
    """Plain values: which network, from which recipe, what goes into it and what comes out."""
    asked = recipe.as_dict()
    return {
        "format": FORMAT,
        "weights": "checkpoints/best.pt",
        "model": recipe.model,
        "parameters": sum(weight.numel() for weight in module.parameters()),
        "recipe": recipe.recipe,
        "recipe_sha256": hashlib.sha256(encode(to_json(asked))).hexdigest(),
        "preprocessing": preprocessing.as_dict(),
        "input": INPUT,
        "output": OUTPUT,
    }
