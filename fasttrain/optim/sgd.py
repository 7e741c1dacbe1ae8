"""SGD with momentum as one fused update, by torch, by our kernel or by apex; and fused AdamW.

The learning rate is a tensor that is filled in place, so that a compiled or captured step stays
valid when it changes. Momentum starts as zeros, because torch's fused SGD otherwise leaves
uninitialised memory when the first fp16 step overflows. Each group has a rate tensor of its own: a
schedule that multiplies the rates would multiply a shared one once for each group.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

import kernels

from ..errors import EnvironmentProblem
from .kernel_sgd import KernelSGD
from .muon import BIAS_RATE, Muon


def sgd(
    model: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool = False,
    decay_norms: bool = True,
    provider: str = "torch",
) -> torch.optim.Optimizer:
    """Fused SGD over all parameters of `model`; `provider` is "torch", "kernel" or "apex".

    Without `decay_norms` biases and the weights of normalisation layers have no weight decay.
    Raises EnvironmentProblem for "kernel" without a GPU or triton, and for "apex" if NVIDIA's apex
    with its CUDA kernels is not installed.
    """
    lr = float(lr)
    options: dict[str, Any] = {"momentum": float(momentum), "nesterov": bool(nesterov)}
    if provider == "apex":
        return _apex(_groups(model, lr, weight_decay, decay_norms), lr, options)
    rate = _rate(model, lr)
    groups = _groups(model, rate, weight_decay, decay_norms)
    optimizer: torch.optim.SGD
    if provider == "kernel":
        if found := kernels.problem(rate.device):
            raise EnvironmentProblem(f"--optimizer (kernel): {found}. Use --optimizer torch.")
        optimizer = KernelSGD(groups, lr=rate, **options)
    else:
        optimizer = torch.optim.SGD(groups, lr=rate, fused=True, **options)
    if momentum:
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def adamw(
    model: nn.Module,
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 1e-2,
    decay_norms: bool = True,
) -> torch.optim.AdamW:
    """torch's fused AdamW over all parameters of `model`, with betas of `momentum` and 0.999.

    Without `decay_norms` biases and the weights of normalisation layers have no weight decay.
    """
    rate = _rate(model, lr)
    optimizer = torch.optim.AdamW(
        _groups(model, rate, weight_decay, decay_norms),
        lr=rate,
        betas=(float(momentum), 0.999),
        fused=True,
        capturable=rate.is_cuda,  # fused, it changes nothing but that a graph may capture the step
    )
    # Steps outside a graph, too: its own warm-up, and batches of another size.
    optimizer._warned_capturable_if_run_uncaptured = True
    for parameter in model.parameters():
        if parameter.requires_grad:
            averages = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.zeros_like(rate), **averages}
    return optimizer


def muon(
    model: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    decay_norms: bool = True,
    bias_rate: float = BIAS_RATE,
) -> Muon:
    """Muon for the convolution filters of `model`, SGD with Nesterov momentum for the rest."""
    options: dict[str, Any] = {"weight_decay": weight_decay, "decay_norms": decay_norms}
    return Muon(model, lr=_rate(model, lr), momentum=momentum, bias_rate=bias_rate, **options)


def _rate(model: nn.Module, lr: float) -> Tensor:
    """A learning rate as a tensor () on the model's device, to be filled in place."""
    return torch.tensor(lr, dtype=torch.float32, device=next(model.parameters()).device)


def _groups(
    model: nn.Module, rate: Tensor | float, weight_decay: float, decay_norms: bool
) -> list[dict[str, Any]]:
    """All parameters in one group, or without `decay_norms` those that have no decay in another.

    They are those of at most one dimension and the biases, as in timm's optimizers.
    """
    kinds: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in model.named_parameters():
        is_free = parameter.ndim <= 1 or name.rpartition(".")[2] == "bias"
        kinds[is_free and not decay_norms].append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": decay,
            "lr": rate.clone() if isinstance(rate, Tensor) else rate,
        }
        for parameters, decay in zip(kinds, (float(weight_decay), 0.0), strict=True)
        if parameters
    ]


def _apex(
    groups: list[dict[str, Any]], lr: float, options: dict[str, Any]
) -> torch.optim.Optimizer:
    problem = apex_problem()
    if problem:
        raise EnvironmentProblem(f"--optimizer (apex): {problem}. Or use --optimizer torch.")
    from apex.optimizers import FusedSGD

    return FusedSGD(groups, lr=lr, **options)


def apex_problem() -> str | None:
    """Why apex's FusedSGD cannot be used, and what to do, in one line; None if it can be used."""
    build = "Build https://github.com/NVIDIA/apex from source with APEX_CPP_EXT=1 APEX_CUDA_EXT=1"
    try:
        import amp_C  # noqa: F401
        from apex.optimizers import FusedSGD  # noqa: F401
    # Not only ImportError: the web toolkit of that name fails in other ways too.
    except Exception as error:
        try:
            found = metadata.version("apex")
        except metadata.PackageNotFoundError:
            return f"NVIDIA apex is not installed. {build}"
        if found.startswith("0.9.10"):
            return f"the apex {found} found here is a web toolkit, not NVIDIA's. {build}"
        return f"apex {found} has no usable CUDA kernels ({type(error).__name__}). {build}"
    if not torch.cuda.is_available():
        return "apex's kernels need a CUDA device"
    return None
