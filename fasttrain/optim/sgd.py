"""SGD with momentum as one fused update: by torch, by our kernel or by apex.

The learning rate is a tensor that is filled in place, so that a compiled or captured step stays
valid when it changes. Momentum starts as zeros, because torch's fused SGD otherwise leaves
uninitialised memory when the first fp16 step overflows.
"""

from __future__ import annotations

from importlib import metadata

import torch
from torch import nn

import kernels

from ..errors import EnvironmentProblem
from .kernel_sgd import KernelSGD
from .muon import Muon


def sgd(
    model: nn.Module, *, lr: float, momentum: float, weight_decay: float, provider: str = "torch"
) -> torch.optim.Optimizer:
    """Fused SGD over all parameters of `model`; `provider` is "torch", "kernel" or "apex".

    Raises EnvironmentProblem for "kernel" without a GPU or triton, and for "apex" if NVIDIA's apex
    with its CUDA kernels is not installed.
    """
    parameters = list(model.parameters())
    lr, momentum, weight_decay = float(lr), float(momentum), float(weight_decay)
    if provider == "apex":
        return _apex(parameters, lr, momentum, weight_decay)
    device = parameters[0].device
    rate = torch.tensor(lr, dtype=torch.float32, device=device)
    optimizer: torch.optim.SGD
    if provider == "kernel":
        if found := kernels.problem(device):
            raise EnvironmentProblem(f"--optimizer (kernel): {found}. Use --optimizer torch.")
        optimizer = KernelSGD(parameters, lr=rate, momentum=momentum, weight_decay=weight_decay)
    else:
        optimizer = torch.optim.SGD(
            parameters, lr=rate, momentum=momentum, weight_decay=weight_decay, fused=True
        )
    if momentum:
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def muon(model: nn.Module, *, lr: float, momentum: float, weight_decay: float) -> Muon:
    """Muon for the convolution filters of `model`, SGD with Nesterov momentum for the rest."""
    rate = torch.tensor(lr, dtype=torch.float32, device=next(model.parameters()).device)
    return Muon(model, lr=rate, momentum=momentum, weight_decay=weight_decay)


def _apex(
    parameters: list[nn.Parameter], lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    problem = apex_problem()
    if problem:
        raise EnvironmentProblem(f"--optimizer (apex): {problem}. Or use --optimizer torch.")
    from apex.optimizers import FusedSGD

    return FusedSGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)


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
