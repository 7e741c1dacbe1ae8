"""The source experiment's training loop, reimplemented: the baseline of fasttrain.

It is eager, float32 and NCHW, with a DataLoader of albumentations in worker processes, torch's
default SGD, and the loss read at every step. The network is fasttrain's own, so that only the loop
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
    """Images augmented one at a time: rotation up to 7 degrees, flip, a 16x16 hole in half."""

    def __init__(self, split: Split) -> None:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or it asks a server for updates
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
    """The network in NCHW, and torch's default SGD."""
    torch.manual_seed(0)
    model = ResNet18().to(device).train()
    return model, torch.optim.SGD(model.parameters(), lr=0.0534, momentum=0.9)


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> tuple[float, int]:
    """Train one step; wait for its loss and number of correct predictions."""
    optimizer.zero_grad()
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    optimizer.step()
    return loss.item(), int(logits.argmax(dim=1).eq(labels).sum().item())


def epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable, device: torch.device
) -> tuple[float, float]:
    """Train one epoch; return its mean loss and accuracy."""
    loss = correct = count = 0.0
    for images, labels in batches:
        batch_loss, batch_correct = step(model, optimizer, images.to(device), labels.to(device))
        loss += batch_loss * len(labels)
        correct += batch_correct
        count += len(labels)
    return loss / count, correct / count
