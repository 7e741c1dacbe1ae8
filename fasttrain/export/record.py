"""export.json: what was exported from what, how it was verified, and the digest of each file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..report.read import Run
from . import verify

PACKAGES = ("torch", "numpy", "pillow", "onnx", "onnxscript", "onnxruntime", "safetensors")


def record(
    run: Run,
    about: dict[str, Any],
    given: Sequence[verify.Case],
    found: dict[str, dict[str, Any]],
    files: Path,
) -> dict[str, Any]:
    """The content of export.json; `found` are the numbers of each format, `files` the folder."""
    return {
        **about,
        "run": run.name,
        "epoch": run.summary.get("best_epoch"),
        "verification": {
            "reference": "the network in torch, float32, on the CPU, behind Pillow's resize",
            "images": [
                {"what": case.what, "count": len(case.images), "size": list(case.images.shape[1:3])}
                for case in given
            ],
            "batches": list(verify.BATCHES),
            "tolerance": verify.TOLERANCE,
            "formats": found,
        },
        "versions": {name: _version(name) for name in PACKAGES},
        "files": {file.name: _facts(file) for file in sorted(files.iterdir())},
    }


def _facts(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
