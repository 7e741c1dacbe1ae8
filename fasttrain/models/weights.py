"""Starts a network from saved weights, and freezes all but its head.

The weights come from a run of fasttrain or from a safetensors file; neither can contain code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, UsageError
from ..storage import checkpoint

Kind = TypeVar("Kind", bound=nn.Module)
WRAPPED = ("_orig_mod.", "module.")  # what torch.compile and DDP put before names
SHORTCUT, SHORTCUT_ELSEWHERE = ".shortcut.", ".downsample."  # of torchvision's and timm's ResNets
COUNTER = "num_batches_tracked"  # of a BatchNorm: other libraries leave it out


def load_weights(
    model: nn.Module, path: Path, *, classes: int, names: Sequence[str] = ()
) -> tuple[str, ...]:
    """Copy the weights at `path`, a run's folder, a checkpoint or a safetensors file, into `model`.

    Where the file's head is of other classes, in number or by their `names`, or there is none, the
    head keeps its own weights. Returns the names of the weights that were not loaded. Raises
    CheckpointError if the file cannot be read or does not fit in more than the head; `model` is
    then unchanged.
    """
    (given, known), own = _read(path), model.state_dict()
    if any(SHORTCUT in name for name in own) and not any(SHORTCUT_ELSEWHERE in n for n in own):
        given = {n.replace(SHORTCUT_ELSEWHERE, SHORTCUT): each for n, each in given.items()}
    top = head(model, classes=classes)
    mine = tuple(name for name in own if name.rpartition(".")[0] == top)
    new = any(name not in given or given[name].shape != own[name].shape for name in mine)
    new = new or bool(known and names and list(known) != list(names))
    left = set(mine) if new else set()
    needed = [n for n in own if n not in left and not (n.endswith(COUNTER) and n not in given)]
    for name in needed:
        if name not in given:
            raise _misfit(path, f"it has no {name}")
        if given[name].shape != own[name].shape:
            there, here = tuple(given[name].shape), tuple(own[name].shape)
            raise _misfit(path, f"{name} is {there} there and {here} here")
    for name in given:
        if name not in own and not (new and name.rpartition(".")[0] == top):
            raise _misfit(path, f"this network has no {name}")
    with torch.no_grad():
        for name in needed:
            own[name].copy_(given[name])
    return tuple(name for name in mine if name in left)


def freeze(model: nn.Module, *, classes: int) -> None:
    """Keep everything but the head as it is: no gradients, and BatchNorm always in eval mode."""
    learning = model.get_submodule(head(model, classes=classes))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in learning.parameters():
        parameter.requires_grad_(True)
    for module in model.modules():
        if type(module) in STILL:
            module.__class__ = STILL[type(module)]
            module.eval()


def head(model: nn.Module, *, classes: int) -> str:
    """The name of the layer that makes the logits: the last one with `classes` outputs."""
    names = [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == classes)
        or (isinstance(module, nn.Conv2d) and module.out_channels == classes)
    ]
    if not names:
        raise UsageError(
            f"model ({type(model).__name__}): no linear layer or convolution of it has {classes} "
            "outputs, so --init and --freeze find no head. Make such a layer the last one."
        )
    return names[-1]


class _Frozen(nn.Module):
    """A BatchNorm that `train` leaves in eval mode."""

    def train(self: Kind, mode: bool = True) -> Kind:
        return super().train(False)


class FrozenBatchNorm1d(_Frozen, nn.BatchNorm1d):
    """nn.BatchNorm1d that stays in eval mode."""


class FrozenBatchNorm2d(_Frozen, nn.BatchNorm2d):
    """nn.BatchNorm2d that stays in eval mode."""


class FrozenBatchNorm3d(_Frozen, nn.BatchNorm3d):
    """nn.BatchNorm3d that stays in eval mode."""


STILL: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: FrozenBatchNorm1d,
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.BatchNorm3d: FrozenBatchNorm3d,
}


def _read(path: Path) -> tuple[dict[str, Tensor], Sequence[str]]:
    """The tensors at `path`, on the CPU, under the eager network's names; the names of the classes,
    if the file has them."""
    if path.suffix == ".safetensors":
        return _plain(_safetensors(path)), ()
    if path.is_dir():
        best, last = (path / "checkpoints" / f"{name}.pt" for name in ("best", "last"))
        path = best if best.exists() else last
    state = checkpoint.load(path)
    model = state.get("model", state.get("step", {}).get("model"))
    if not isinstance(model, dict):
        raise CheckpointError(f"checkpoint ({path}): has no network. Name a run or its best.pt.")
    return _plain(model), state.get("data", {}).get("classes", ())


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        why = getattr(error, "strerror", None) or (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"--init ({path}): cannot be read: {why}. Name a run or a .safetensors file."
        ) from None


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in WRAPPED:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): each for name, each in tensors.items()}
    return tensors


def _misfit(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"--init ({path}): not of this network: {why}. Choose the --model and --side that it was "
        "trained with, or other weights."
    )
