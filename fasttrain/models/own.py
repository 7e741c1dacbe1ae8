"""Makes a network from a user's own function, or from timm.

A user's network can be anything, so each way in which it does not fit becomes one clear error here.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import os
from functools import lru_cache
from types import ModuleType
from typing import NoReturn

import torch
from torch import nn

from ..errors import EnvironmentProblem
from ..recipe import own_function
from ..recipe.own_function import said

TIMM = "timm:"


def make(name: str, *, classes: int, side: int) -> nn.Module:
    """The network that `--model MODULE:FUNCTION` or `--model timm:NAME` names, on the CPU.

    FUNCTION is called with `num_classes=classes`. Raises UsageError if that fails or if the result
    does not turn images (N, 3, side, side) into logits (N, classes), EnvironmentProblem without
    timm.
    """
    timm = name.startswith(TIMM)
    made = _from_timm(name, classes, side) if timm else _from_function(name, classes)
    made = made.to("cpu")
    _check(name, made, classes=classes, side=side)
    return made


def source_digest(name: str) -> str | None:
    """SHA-256 of the source file of MODULE in MODULE:FUNCTION; None if there is no such file.

    A module keeps the digest of its first call: a process goes on with the code that it imported.
    """
    if ":" not in name or name.startswith(TIMM):
        return None
    return _digest(own_function.imported("--model", name))


@lru_cache
def _digest(module: ModuleType) -> str | None:
    try:
        source = inspect.getsourcefile(module)
    except TypeError:  # compiled, or no file at all
        return None
    if source is None or not os.path.isfile(source):
        return None
    with open(source, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _from_function(name: str, classes: int) -> nn.Module:
    found = own_function.function("--model", name, returns="returns a torch.nn.Module")
    try:
        made = found(num_classes=classes)
    except (Exception, SystemExit) as error:
        what = "Let it take num_classes= and return a torch.nn.Module"
        _refuse(name, f"calling it raised {said(error)}", what, error)
    if not isinstance(made, nn.Module):
        why = f"it returned a {type(made).__name__}"
        _refuse(name, why, "Return a torch.nn.Module")
    return made


def _from_timm(name: str, classes: int, side: int) -> nn.Module:
    wanted = name.removeprefix(TIMM)
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision for another torch
        why = (str(error).splitlines() or [repr(error)])[0]
        raise EnvironmentProblem(
            f"--model ({name}): timm cannot be imported: {why}. Install timm and the torchvision "
            "that belongs to your torch, or choose another --model."
        ) from None
    known = timm.list_models()
    if wanted.partition(".")[0] not in known:
        near = difflib.get_close_matches(wanted, known, n=1)
        hint = f"Did you mean {TIMM}{near[0]}?" if near else "See timm.list_models()."
        _refuse(name, "timm has no network of that name", hint)
    options = {"pretrained": False, "num_classes": classes}
    try:
        try:  # what divides images into patches is made for one side
            made = timm.create_model(wanted, img_size=side, **options)
        except TypeError:
            made = timm.create_model(wanted, **options)
    except Exception as error:
        _refuse(name, f"timm raised {said(error)}", "Choose another network or --side", error)
    assert isinstance(made, nn.Module)
    return made


def _check(name: str, model: nn.Module, *, classes: int, side: int) -> None:
    """UsageError unless `model` turns a batch of images into logits."""
    images = torch.zeros(2, 3, side, side)
    was = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng([]):
            logits = model.eval()(images)
    except Exception as error:
        why = f"on images (2, 3, {side}, {side}) it raised {said(error)}"
        _refuse(name, why, "Let it take images of any side, or choose another --side", error)
    model.train(was)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, classes):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        why = f"of images (2, 3, {side}, {side}) it makes {shape} and not logits (2, {classes})"
        _refuse(name, why, "Give its last layer num_classes outputs")
    if not any(weight.requires_grad for weight in model.parameters()):
        _refuse(name, "it has no weights to train", "Return a network with parameters")


def _refuse(name: str, why: str, what: str, error: BaseException | None = None) -> NoReturn:
    own_function.refuse("--model", name, why, what, error)
