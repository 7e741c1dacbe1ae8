"""BatchNorm over the batches of all processes, on GPUs and CPUs, without a wait of the host.

torch.nn.SyncBatchNorm refuses tensors on a CPU (2.13), and on a GPU it reads a mask on the host in
every layer of every step. With BatchNorm over all processes they compute what one process computes
on the whole batch, and tests on CPUs can show it.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def synchronised(model: nn.Module) -> nn.Module:
    """`model` with every BatchNorm2d over all processes; weights and their names stay the same."""
    for name, child in model.named_children():
        setattr(model, name, _over_all(child) if _is_local(child) else synchronised(child))
    return model


class SyncBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose training statistics are over the images of all processes.

    The processes have batches of equal size. Without a process group, and in evaluation, it does
    what nn.BatchNorm2d does.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized()):
            return super().forward(x)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        whole = x.float()
        mean = _Sum.apply(whole.sum((0, 2, 3))) / count
        centred = whole - mean[:, None, None]
        # Two passes: the difference of two large sums would lose digits.
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        self._track(mean, variance * (count / max(count - 1, 1)))
        scale = torch.rsqrt(variance + self.eps)
        if not self.affine:
            return (centred * scale[:, None, None]).to(x.dtype)
        scale = self.weight * scale
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of this batch."""
        if self.running_mean is None or self.running_var is None:
            return
        counted = self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        share = counted.reciprocal() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is summed in the same way."""

    @staticmethod
    def forward(ctx: object, mine: Tensor) -> Tensor:
        total = mine.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


def _is_local(module: nn.Module) -> bool:
    return type(module) is nn.BatchNorm2d


def _over_all(local: nn.Module) -> SyncBatchNorm2d:
    assert isinstance(local, nn.BatchNorm2d)
    made = SyncBatchNorm2d(
        local.num_features,
        eps=local.eps,
        momentum=local.momentum,
        affine=local.affine,
        track_running_stats=local.track_running_stats,
    )
    made._parameters, made._buffers = local._parameters, local._buffers
    return made.train(local.training)
