"""model.onnx: written by torch's exporter and read by ONNX Runtime.

The packages of the extra `export` are imported here alone, when they are needed.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from .. import __version__
from ..errors import EnvironmentProblem, UsageError
from .graph import NAMES, cause, quiet
from .verify import Runtime

OPSET = 18
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MOST_BYTES = 2**31 - 1  # of a protobuf message


def check_packages() -> None:
    """Raise EnvironmentProblem, with what to install, if a package is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise EnvironmentProblem(
            f"--format (onnx): {', '.join(missing)} not installed. Run pip install "
            "'fasttrain[export]', or use --format pt2,safetensors."
        )


def write(program: ExportedProgram, about: dict[str, Any]) -> bytes:
    """The content of model.onnx; each value of `about` becomes JSON in its metadata."""
    import onnx

    try:
        with quiet(), torch.no_grad():
            made = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=list(NAMES),
                external_data=False,
                verbose=False,
            )
            model = made.model_proto  # type: ignore[union-attr]
    except Exception as error:  # an operator that ONNX does not have
        raise UsageError(
            f"--format (onnx): torch cannot write this network as ONNX: {cause(error)}. "
            "Use --format pt2,safetensors."
        ) from error
    model.producer_name, model.producer_version = "fasttrain", __version__
    model.doc_string = "images uint8 (batch, height, width, 3) RGB -> logits, probabilities"
    onnx.helper.set_model_props(
        model, {name: json.dumps(value, ensure_ascii=False) for name, value in about.items()}
    )
    _anonymous(model)
    _name_sizes(model)
    if model.ByteSize() > MOST_BYTES:
        raise UsageError(
            f"--format (onnx): {model.ByteSize():,} bytes are more than such a file can hold. "
            "Use --format pt2,safetensors."
        )
    return model.SerializeToString()


def read(path: Path) -> Runtime:
    """model.onnx in ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, probabilities = session.run(list(NAMES), {"images": images})
        return logits, probabilities

    return answer


def _anonymous(model: Any) -> None:
    """Remove what the exporter notes about its own work: Python's stacks with paths, and guesses
    of shapes."""
    del model.graph.value_info[:]
    for part in (*model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    for part in (*model.graph.initializer, *model.functions):
        del part.metadata_props[:]
    del model.graph.metadata_props[:]


def _name_sizes(model: Any) -> None:
    """Name the sizes that may vary."""
    shape = model.graph.input[0].type.tensor_type.shape.dim
    for size, name in zip(shape, ("batch", "height", "width"), strict=False):
        if size.dim_param:
            size.dim_param = name
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[0].dim_param = "batch"
