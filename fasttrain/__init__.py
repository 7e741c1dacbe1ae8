"""A high-throughput trainer of small-image classifiers; `python -m fasttrain --help` is its face.

Names are looked up when they are used: importing fasttrain imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Recipe": "recipe.recipe",
    "train": "run.train",
    "fit": "engine.loop",
    "evaluate": "engine.evaluation",
    "Step": "engine.step",
    "find_lr": "engine.lr_finder",
    "GradCAM": "explain.gradcam",
    "load": "predict.classifier",
    "Classifier": "predict.classifier",
    "Prediction": "predict.prediction",
    "ResNet18": "models.resnet",
    "ResidentLoader": "loaders.resident",
    "DaliLoader": "loaders.dali",
    "Split": "data",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fasttrain' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
