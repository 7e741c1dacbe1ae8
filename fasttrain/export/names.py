"""The words of --format and --input, checked before torch is imported."""

from __future__ import annotations

from ..recipe.fields import not_one_of

FORMATS = ("onnx", "pt2", "safetensors")
INPUTS = ("image", "prepared")


def formats(text: str) -> tuple[str, ...]:
    """The formats in a list like onnx,pt2; UsageError for one that there is not."""
    names = text.split(",")
    for name in names:
        if name not in FORMATS:
            raise not_one_of("--format", name, FORMATS)
    return tuple(name for name in FORMATS if name in names)


def input_kind(text: str) -> str:
    """What the files take: images of any size, or prepared ones; UsageError for another word."""
    if text not in INPUTS:
        raise not_one_of("--input", text, INPUTS)
    return text
