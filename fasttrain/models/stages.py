"""Finds the modules whose maps Grad-CAM shows, and checks one that a user names.

fasttrain's networks name them; a user's own network need not know fasttrain.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError, shown

Shape = tuple[int, ...] | str
"""The shape of what a module put out, or the name of its type if it is no tensor."""


def stages(model: nn.Module, *, side: int) -> tuple[str, ...]:
    """The names of the modules whose maps Grad-CAM shows, the last one nearest to the logits.

    `model.stages`, if it is a tuple of names of modules; otherwise the last module that puts out
    one map (N, C, H, W) for images (N, 3, side, side), on the model's device. Raises UsageError if
    there is none.
    """
    given = getattr(model, "stages", None)
    modules = dict(model.named_modules())
    if isinstance(given, tuple) and given and all(name in modules for name in given):
        return given
    return (_last_map(model, side),)


def check_layer(model: nn.Module, name: str, *, side: int) -> None:
    """Raise UsageError unless `model` has a module `name`, of --cam-layer, that puts out one map
    (N, C, H, W) of more than one pixel for images (N, 3, side, side)."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if not name or name not in modules:
        near = difflib.get_close_matches(name, filter(None, modules), n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(near)}?" if near else _example(model, side)
        raise UsageError(
            f"--cam-layer ({shown(name)}): the network has no module of that name. {hint}"
        )
    shapes = [shape for _, shape in _outputs(model, {name: modules[name]}, side)]
    why = ""
    if not shapes:
        why = "the network does not call it"
    elif not _is_map(shapes[0]):
        why = f"it puts out {_described(shapes[0])} and no map (N, C, H, W)"
    elif len(shapes) > 1:
        why = f"the network calls it {len(shapes)} times, so that it has no one map"
    elif not _is_large(shapes[0]):
        why = "its map is a single pixel, which shows no place"
    if why:
        raise UsageError(f"--cam-layer ({shown(name)}): {why}. {_example(model, side)}")


def _example(model: nn.Module, side: int) -> str:
    return f"Leave it out to see {stages(model, side=side)[-1]}, or name another module."


def _last_map(model: nn.Module, side: int) -> str:
    """The module that finished last of those with one map; one of 1x1 only if there is no larger.

    A module that is called several times, as a ReLU often is, has several maps.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    outputs = _outputs(model, modules, side)
    calls = Counter(name for name, _ in outputs)
    maps = [(name, shape) for name, shape in outputs if _is_map(shape) and calls[name] == 1]
    names = [name for name, shape in maps if _is_large(shape)] or [name for name, _ in maps]
    if not names:
        raise UsageError(
            f"model ({type(model).__name__}): no module of it puts out one map (N, C, H, W), which "
            "Grad-CAM needs. Give the model a tuple `stages` of module names."
        )
    return names[-1]


def _outputs(
    model: nn.Module, modules: Mapping[str, nn.Module], side: int
) -> list[tuple[str, Shape]]:
    """What each call of `modules` put out for two images, in the order in which they finished."""
    found: list[tuple[str, Shape]] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = isinstance(output, Tensor)
            found.append((name, tuple(output.shape) if tensor else type(output).__name__))

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    weight = next(model.parameters())
    flags = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng([]):
            model.eval()(torch.zeros(2, 3, side, side, device=weight.device, dtype=weight.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in flags:
            module.training = training
    return found


def _is_map(shape: Shape) -> bool:
    return not isinstance(shape, str) and len(shape) == 4 and shape[0] == 2


def _is_large(shape: Shape) -> bool:
    return not isinstance(shape, str) and shape[2] * shape[3] > 1


def _described(shape: Shape) -> str:
    if isinstance(shape, str):
        return f"a {shape}"
    return f"({', '.join(['N', *map(str, shape[1:])])})"
