"""What the page shows about one uploaded image: classes, probabilities and Grad-CAM.

An answer is plain values, so that it can be tested without a server. It names no path.
"""

from __future__ import annotations

from typing import Any

from ..data import content
from ..data.pictures import Unusable
from ..explain.one_image import layer_maps, likeliest
from ..predict.classifier import Classifier
from ..report.tiles import data_uri, enlarged, overlay

TOP = 5  # classes that are listed
EXPLAINED = 2  # of them with maps
TILE = 224  # pixels along an image of the page, at least


def answer(classifier: Classifier, upload: bytes) -> dict[str, Any]:
    """The answer about the bytes of an image file, ready for JSON; Unusable, with the reason, if it
    is none."""
    pixels = content.pixels(upload, classifier.preprocessing)
    if isinstance(pixels, str):
        raise Unusable(pixels)
    factor = max(1, TILE // len(pixels))
    found = likeliest(classifier, pixels, count=TOP)
    maps = layer_maps(classifier, pixels, [number for number, _ in found[:EXPLAINED]])
    return {
        "classes": [{"name": classifier.classes[n], "probability": p} for n, p in found],
        "image": data_uri(enlarged(pixels, factor)),
        "maps": [
            {
                "class": classifier.classes[number],
                "layers": [
                    {"name": name, "image": data_uri(overlay(pixels, heat, factor))}
                    for name, heat in layers.items()
                ],
            }
            for (number, _), layers in zip(found, maps, strict=False)
        ],
    }
