"""The loop of torchvision's references, without torchvision: the second peer on a GPU.

It is eager and channels_last, with autocast (and a GradScaler for float16), torch's default SGD and
a DataLoader over tensors that are already on the device. It does no augmentation, which is to its
advantage. The sums stay on the device, so that the host never waits for a step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasttrain.data import Split
from fasttrain.data.cifar10 import MEAN, STD
from fasttrain.models.resnet import ResNet18


def loader(split: Split, device: torch.device, *, batch_size: int) -> Iterable[list[Tensor]]:
    """Shuffled batches (B, 3, 32, 32) float32, channels_last, and (B,) int64, on `device`."""
    images = torch.from_numpy(split.images).to(device).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(three, device=device).view(3, 1, 1) for three in (MEAN, STD))
    images = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
    data = torch.utils.data.TensorDataset(images, torch.from_numpy(split.labels).to(device))
    # Indexing with a list is torch's own way to avoid collating single images.
    order = torch.utils.data.BatchSampler(
        torch.utils.data.RandomSampler(data), batch_size, drop_last=True
    )
    return torch.utils.data.DataLoader(data, sampler=order, batch_size=None)


def network(device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network in channels_last, and torch's default SGD."""
    torch.manual_seed(0)
    model = ResNet18().to(device).to(memory_format=torch.channels_last).train()
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    images: Tensor,
    labels: Tensor,
    *,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Train one step; return its loss and number of correct predictions, on the device."""
    optimizer.zero_grad()
    with torch.autocast(images.device.type, dtype=dtype):
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return loss.detach(), (logits.argmax(dim=1) == labels).sum()


def epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable, *, dtype: torch.dtype
) -> tuple[float, float]:
    """Train one epoch; return its mean loss and accuracy."""
    device = next(model.parameters()).device
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    sums, count = torch.zeros(2, device=device), 0
    for images, labels in batches:
        found = step(model, optimizer, scaler, images, labels, dtype=dtype)
        sums += torch.stack([found[0] * len(labels), found[1]])
        count += len(labels)
    loss, correct = sums.tolist()
    return loss / count, correct / count
