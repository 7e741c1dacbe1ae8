"""Exports a run: writes the files, verifies each by its own runtime, and only then keeps them.

It works on the CPU and in float32, whatever the run was trained on and with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..predict.classifier import Classifier, open_checkpoint
from ..report.read import read
from ..storage.atomic import write_atomically, write_json
from ..storage.encode import encode
from ..storage.paths import path, some_path
from . import folder, held_out, names, onnx_file, pt2_file, record, safetensors_file, verify
from .card import card
from .graph import Graph, trace

Log = Callable[[str], None]


def export(
    run: str | os.PathLike[str],
    *,
    formats: Collection[str] = names.FORMATS,
    out: str | os.PathLike[str] | None = None,
    input: str = "image",
    log: Log = lambda line: None,
) -> Path:
    """Export the best network of a run into the folder `out`, else `export` in the run; return it.

    `input` "image" takes images of any size, "prepared" those of the network's side. Raises
    CheckpointError for what is no run, EnvironmentProblem without the packages of `onnx`,
    UsageError for a network that cannot be traced, ExportError if a file does not give the
    network's probabilities, OutputError. Then there are no new files, and an older export is kept.
    """
    source, wanted = path(run), names.formats(",".join(formats))
    resizes = names.input_kind(input) == "image"
    if "onnx" in wanted:
        onnx_file.check_packages()
    facts = read(source)
    exact = {"device": "cpu", "amp": "off"}  # float32, also of a run in lower precision
    classifier, kept = open_checkpoint(source / "checkpoints" / "best.pt", here=exact)
    target = some_path(out) or source / "export"
    about = {
        "fasttrain": __version__,
        "model": classifier.recipe.model,
        "input": input,
        "classes": list(classifier.classes),
        "preprocessing": classifier.preprocessing.as_dict(),
    }
    with folder.replaced(target) as new:
        shown, why = held_out.images(classifier.recipe, kept)
        if not len(shown):
            log(f"verified with noise alone: the run's images cannot be used ({why})")
        given = verify.cases(classifier, shown, resizes=resizes)
        found = _written(new, classifier, wanted, given, about=about, resizes=resizes, log=log)
        write_json(new / "classes.json", about["classes"])
        text = card(facts, classifier, kept, found, held_out=len(shown), input=input)
        write_atomically(new / "README.md", encode(text))
        write_json(new / folder.RECORD, record.record(facts, about, given, found, new))
    log(f"export: {target}")
    return target


def _written(
    new: Path,
    classifier: Classifier,
    formats: Sequence[str],
    given: Sequence[verify.Case],
    *,
    about: dict[str, Any],
    resizes: bool,
    log: Log,
) -> dict[str, dict[str, Any]]:
    """Write each format's file and compare what its runtime gives: format -> numbers."""
    scale, recipe, module = classifier.preprocessing, classifier.recipe, classifier.module
    if {"onnx", "pt2"} & set(formats):
        program = trace(Graph(module, scale, resizes=resizes), f"--model {recipe.model}")
    found = {}
    for name in formats:
        file = new / f"model.{name}"
        opened: Callable[[], verify.Runtime]
        if name == "onnx":
            content, opened = onnx_file.write(program, about), partial(onnx_file.read, file)
        elif name == "pt2":
            content, opened = pt2_file.write(program, about), partial(pt2_file.read, file)
        else:
            content = safetensors_file.write(module, recipe, scale.side)
            opened = partial(safetensors_file.read, file, recipe, scale, resizes=resizes)
            write_json(new / "config.json", safetensors_file.config(module, recipe, scale))
        write_atomically(file, content)
        found[name] = verify.verified(name, opened, given)
        log(
            f"{file.name}: {len(content):,} bytes; {found[name]['images']} images through its "
            "runtime, greatest difference of a probability "
            f"{found[name]['max_difference_of_probabilities']:.1e}"
        )
    return found
