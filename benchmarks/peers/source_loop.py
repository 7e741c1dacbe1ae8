"""The source experiment's training loop, written anew as it was: what fasttrain is compared with.

Eager, float32, NCHW, a DataLoader of albumentations in worker processes, torch's default SGD, and
the loss read back at every step. The network is fasttrain's own, so that only the way of training
differs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasttrain.data import Split
from fasttrain.data.cifar10 import MEAN, REFERENCE_STD
from fasttrain.models.resnet import ResNet18


class Images(torch.utils.data.Dataset):
    """Rotation by up to 7 degrees, a flip, a 16x16 hole half of the time: one image after
    another."""

    def __init__(self, split: Split) -> None:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # no word with its maker's server
        import albumentations as A

        self.split = split
        fill = tuple(255 * value for value in MEAN)
        self.chain = A.Compose(
            [
                A.Rotate(limit=7),
                A.HorizontalFlip(p=0.5),
                A.CoarseDropout((1, 1), (16, 16), (16, 16), fill=fill, p=0.5),
                A.Normalize(MEAN, REFERENCE_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.chain(image=self.split.images[index])["image"]
        return torch.from_numpy(image.transpose(2, 0, 1).copy()), int(self.split.labels[index])


def loader(split: Split, *, batch_size: int, workers: int = 2) -> Iterable[list[Tensor]]:
    """Shuffled batches (B, 3, 32, 32) float32 and (B,) int64 from `workers` processes."""
    return torch.utils.data.DataLoader(
        Images(split),
        batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def network(device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network in NCHW, and SGD as torch gives it."""
    torch.manual_seed(0)
    model = ResNet18().to(device).train()
    return model, torch.optim.SGD(model.parameters(), lr=0.0534, momentum=0.9)


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> tuple[float, int]:
    """One step; the host waits for its loss and its correct answers."""
    optimizer.zero_grad()
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    optimizer.step()
    return loss.item(), int(logits.argmax(dim=1).eq(labels).sum().item())


def epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable, device: torch.device
) -> tuple[float, float]:
    """An epoch; its mean loss and its accuracy."""
    loss = correct = count = 0.0
    for images, labels in batches:
        batch_loss, batch_correct = step(model, optimizer, images.to(device), labels.to(device))
        loss += batch_loss * len(labels)
        correct += batch_correct
        count += len(labels)
    return loss / count, correct / count
