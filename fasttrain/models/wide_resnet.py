"""Wide residual networks: BatchNorm and ReLU before each convolution, three wide stages.

Zagoruyko and Komodakis, arXiv 1605.07146. They are the stronger, slower networks that CIFAR tables
quote; the stem follows the side of the images, as in resnet.py.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .resnet import stem


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each after BatchNorm and ReLU, and the shortcut around them."""

    def __init__(self, channels_in: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        around = x if self.shortcut is None else self.shortcut(out)
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + around


class WideResNet(nn.Module):
    """images (N, 3, side, side) -> logits (N, classes); 6 n + 4 layers, `width` times the channels.

    For ten classes at 32x32, 16 layers of width 8 have 10,961,370 parameters, 28 of width 10
    36,479,194.
    """

    stages = ("layer1", "layer2", "layer3")

    def __init__(self, layers: int, width: int, *, classes: int = 10, side: int = 32) -> None:
        super().__init__()
        self.conv1, self.pooled, _ = stem(16, side)
        depth = (layers - 4) // 6
        self.layer1 = _stage(16, 16 * width, depth=depth, stride=1)
        self.layer2 = _stage(16 * width, 32 * width, depth=depth, stride=2)
        self.layer3 = _stage(32 * width, 64 * width, depth=depth, stride=2)
        self.bn = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.pooled:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = F.relu(self.bn(self.layer3(self.layer2(self.layer1(x)))))
        return self.fc(x.mean(dim=(2, 3)))


def _stage(channels_in: int, channels: int, *, depth: int, stride: int) -> nn.Sequential:
    """`depth` blocks; the first one has the stride."""
    first = WideBlock(channels_in, channels, stride=stride)
    return nn.Sequential(first, *(WideBlock(channels, channels, stride=1) for _ in range(1, depth)))
