"""model.pt2: the traced program in torch's own format, for Python and C++ with torch alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from .graph import quiet
from .verify import Runtime

ABOUT = "fasttrain.json"


def write(program: ExportedProgram, about: dict[str, Any]) -> bytes:
    """The content of model.pt2, with `about` as its extra file fasttrain.json."""
    buffer = io.BytesIO()
    extra = {ABOUT: json.dumps(about, ensure_ascii=False)}
    with quiet():
        torch.export.save(program, buffer, extra_files=extra)
    return buffer.getvalue()


def read(path: Path) -> Runtime:
    """model.pt2 in torch on the CPU."""
    with quiet():
        return answering(torch.export.load(path).module())


def answering(module: nn.Module) -> Runtime:
    """A module of tensors as a function of arrays."""

    def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            logits, probabilities = module(torch.from_numpy(images))
        return logits.numpy(), probabilities.numpy()

    return answer
