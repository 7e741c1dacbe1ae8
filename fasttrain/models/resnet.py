"""ResNets for images of any side: a stem by the side, four stages, a linear head.

He et al., arXiv 1512.03385. At 32x32, ResNet18 has the 3x3 stem of that paper's CIFAR section, and
its last stage keeps the 8x8 maps, as in the source experiment: 0.958 GMAC an image, 1.73 times the
ResNet18 that most CIFAR tables quote.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

LAST_MAP = 8  # the last stage does not halve a map of this side or less


def stem(channels: int, side: int) -> tuple[nn.Conv2d, bool, int]:
    """The first convolution for images of `side`, whether a 3x3 max pool of stride 2 follows, and
    the side of the map after both.

    Up to 64 pixels 3x3 of stride 1, up to 128 of stride 2, above that 7x7 of stride 2 and the pool.
    """
    stride = 1 if side <= 64 else 2
    pooled = side > 128
    size = 7 if pooled else 3
    conv = nn.Conv2d(3, channels, size, stride=stride, padding=size // 2, bias=False)
    for halved in (stride == 2, pooled):
        side = (side + 1) // 2 if halved else side
    return conv, pooled, side


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut around them."""

    widening = 1

    def __init__(self, channels_in: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution to four times the channels, and the shortcut around."""

    widening = 4

    def __init__(self, channels_in: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.shortcut = _shortcut(channels_in, 4 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """images (N, 3, side, side) -> logits (N, classes).

    `depths` are the blocks of the stages, `width` the channels of the first.
    """

    stages = ("layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        *,
        classes: int,
        side: int,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.conv1, self.pooled, map_side = stem(width, side)
        self.bn1 = nn.BatchNorm2d(width)
        last = 1 if -(-map_side // 4) <= LAST_MAP else 2
        wide = width * block.widening
        self.layer1 = _stage(block, width, width, depth=depths[0], stride=1)
        self.layer2 = _stage(block, wide, 2 * width, depth=depths[1], stride=2)
        self.layer3 = _stage(block, 2 * wide, 4 * width, depth=depths[2], stride=2)
        self.layer4 = _stage(block, 4 * wide, 8 * width, depth=depths[3], stride=last)
        self.fc = nn.Linear(8 * wide, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        if self.pooled:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))


class ResNet18(ResNet):
    """images (N, 3, side, side) -> logits; 11,173,962 parameters for ten classes at 32x32."""

    def __init__(self, classes: int = 10, side: int = 32) -> None:
        super().__init__(BasicBlock, (2, 2, 2, 2), classes=classes, side=side)


class ResNet34(ResNet):
    """images (N, 3, side, side) -> logits; 21,282,122 parameters for ten classes at 32x32."""

    def __init__(self, classes: int = 10, side: int = 32) -> None:
        super().__init__(BasicBlock, (3, 4, 6, 3), classes=classes, side=side)


class ResNet50(ResNet):
    """images (N, 3, side, side) -> logits; 23,520,842 parameters for ten classes at 32x32."""

    def __init__(self, classes: int = 10, side: int = 32) -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3), classes=classes, side=side)


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    channels_in: int,
    channels: int,
    *,
    depth: int,
    stride: int,
) -> nn.Sequential:
    """`depth` blocks; the first one has the stride."""
    first = block(channels_in, channels, stride=stride)
    more = (block(block.widening * channels, channels, stride=1) for _ in range(1, depth))
    return nn.Sequential(first, *more)


def _shortcut(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    """The identity where the shape stays, else a 1x1 convolution and BatchNorm."""
    if stride == 1 and channels_in == channels:
        return nn.Sequential()
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
    )
