"""SGD with momentum over many tensors in one launch; each number is read and written once.

    g = grad / grad_scale + weight_decay * p
    m = momentum * m + g
    p = p - lr * (g + momentum * m  if nesterov else  m)

and nothing changes where `found_inf` is not 0. All is float32: 20 bytes per parameter, p, grad and
m read, p and m written (12 without momentum). Not measured on a GPU yet.

The tensors stay where autograd and the model put them; a table holds their addresses. One launch
per tensor would be 62 launches for a ResNet18. One flat buffer would cost a copy of every gradient,
since autograd allocates them anew in each step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048  # with 4 warps 16 numbers per thread


def rows(params: Sequence[Tensor], grads: Sequence[Tensor], momenta: Sequence[Tensor]) -> Tensor:
    """The table of tensors: int64 (blocks, 4), the addresses of p, grad and m and a length.

    All are float32 and dense; the three of a parameter have the same strides. The table holds no
    references: it is valid as long as its tensors stay alive at their addresses.
    """
    sizes = torch.tensor([param.numel() for param in params])
    threes = zip(params, grads, momenta, strict=True)
    begins = torch.tensor([[tensor.data_ptr() for tensor in three] for three in threes])
    blocks = (sizes + BLOCK - 1) // BLOCK
    owner = torch.repeat_interleave(blocks)
    first = BLOCK * (torch.arange(len(owner)) - (blocks.cumsum(0) - blocks)[owner])
    length = (sizes[owner] - first).clamp(max=BLOCK)
    return torch.cat([begins[owner] + 4 * first[:, None], length[:, None]], dim=1)


def _ref(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Tensor],
    lr: Tensor,
    *,
    momentum: float,
    weight_decay: float,
    nesterov: bool = False,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """The same in plain torch, tensor by tensor."""
    for p, grad, m in zip(params, grads, momenta, strict=True):
        g = (grad if grad_scale is None else grad * grad_scale.reciprocal()) + weight_decay * p
        new_m = momentum * m + g if momentum else m
        step = g + momentum * new_m if nesterov else new_m if momentum else g
        new_p = p - lr * step
        if found_inf is not None:
            skip = found_inf != 0
            new_p, new_m = p.where(skip, new_p), m.where(skip, new_m)
        p.copy_(new_p)
        m.copy_(new_m)


@triton.jit
def _sgd_kernel(
    table,
    lr,
    grad_scale,
    found_inf,
    momentum,
    weight_decay,
    MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = table + 4 * tl.program_id(0)
    p, grad, m, length = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
    if found_inf is not None:
        length = tl.where(tl.load(found_inf) == 0, length, 0)
    scale = 1.0
    if grad_scale is not None:
        scale = tl.div_rn(1.0, tl.load(grad_scale))
    by = (scale, weight_decay, momentum, tl.load(lr).to(tl.float32))
    # Without a mask, on multiples of 16 bytes, a thread moves four numbers at once.
    if (length == BLOCK) & ((p | grad | m) % 16 == 0):
        _update(p, grad, m, None, by, MOMENTUM, NESTEROV, BLOCK, 16)
    else:
        _update(p, grad, m, length, by, MOMENTUM, NESTEROV, BLOCK, 4)


@triton.jit
def _update(
    p,
    grad,
    m,
    length,
    by,
    MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    scale, weight_decay, momentum, lr = by
    lanes = tl.arange(0, BLOCK)
    inside = None
    if length is not None:
        inside = lanes < length
    p = tl.multiple_of(p.to(tl.pointer_type(tl.float32)), ALIGNED) + lanes
    grad = tl.multiple_of(grad.to(tl.pointer_type(tl.float32)), ALIGNED) + lanes
    m = tl.multiple_of(m.to(tl.pointer_type(tl.float32)), ALIGNED) + lanes
    old = tl.load(p, inside)
    step = tl.load(grad, inside) * scale + weight_decay * old
    if MOMENTUM:
        new_m = momentum * tl.load(m, inside) + step
        tl.store(m, new_m, inside)
        step = step + momentum * new_m if NESTEROV else new_m
    tl.store(p, old - lr * step, inside)


def sgd_(
    table: Tensor,
    lr: Tensor,
    *,
    momentum: float,
    weight_decay: float,
    nesterov: bool = False,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Update in place the parameters and momenta of `table` (see `rows`), which is on their GPU.

    `lr`, `grad_scale` and `found_inf` are one-element tensors there; the host never reads them.
    """
    with torch.cuda.device_of(table):
        _sgd_kernel[(len(table),)](
            table,
            lr,
            grad_scale,
            found_inf,
            float(momentum),
            float(weight_decay),
            MOMENTUM=momentum != 0,
            NESTEROV=nesterov,
            BLOCK=BLOCK,
            num_warps=4,
            enable_fp_fusion=False,  # no gain at 20 bytes per 6 operations; rounds as torch
        )
