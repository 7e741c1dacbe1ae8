"""A small network for short runs: a fixed whitening stem, three stages, a linear head.

Its methods are those of the record runs on CIFAR-10 (Page's bag of tricks; hlb-CIFAR10; airbench:
Jordan, arXiv 2404.00498); the reason of each is given where it is used.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 2  # pixels along a patch of the stem
PATCH_EPS = 5e-4  # added to the patches' variances, so that noise is not amplified
NOTHING = 1e-6  # of the largest variance: gray images have 1e-14, CIFAR-10 6e-5 or more
# torch's default. When the rate falls to zero the weights change little at the end, and an average
# over more batches is more exact: 0.05 to 0.13 % more of the test images than with 0.4 (three runs,
# batch 500).
BATCH_NORM_MOMENTUM = 0.1
HEAD_SCALE = 1 / 9  # keeps the first logits small without a warm-up
SMALLEST = 9  # pixels along an image: of fewer, three halvings leave nothing


class Sprint(nn.Module):
    """images (N, 3, S, S), S >= 9 -> logits (N, classes); `widths` are the stages' channels.

    `whiten_` computes the stem's filters from images; until then they are random.
    """

    stages = ("layer1", "layer2", "layer3")

    def __init__(self, widths: tuple[int, int, int] = (64, 256, 256), classes: int = 10) -> None:
        super().__init__()
        filters = 2 * 3 * PATCH**2
        self.stem = nn.Conv2d(3, filters, PATCH, bias=False)
        self.stem.weight.requires_grad_(False)
        self.layer1 = Stage(filters, widths[0])
        self.layer2 = Stage(widths[0], widths[1])
        self.layer3 = Stage(widths[1], widths[2])
        self.fc = nn.Linear(widths[2], classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.stem(x))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.amax(dim=(2, 3))) * HEAD_SCALE

    def whiten_(self, images: Tensor) -> None:
        """Make the stem decorrelate the patches of `images` (N, 3, S, S), normalised.

        Its filters are the eigenvectors of the patches' covariance, divided by their deviations,
        and the same negated, because GELU keeps one sign only. The stages then get inputs of equal
        size in every direction from the first step on. The stem is never trained.

        Gray images have nothing in 8 of the 12 directions. Their filters are mixtures of the
        others: each channel that is always 0 would multiply the gradients by 316 at every
        BatchNorm below it, and a bias was 2,400 after one step.
        """
        patches = F.unfold(images, PATCH).transpose(1, 2).flatten(0, 1).double()
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (directions / (variances + PATCH_EPS).sqrt()).T.flip(0)
        empty = variances.flip(0) < NOTHING * variances[-1]
        filters[empty] = _mixtures(int(empty.sum()), filters[~empty])
        filters = filters.view(-1, 3, PATCH, PATCH)
        with torch.no_grad():
            self.stem.weight.copy_(torch.cat([filters, -filters]))


class Stage(nn.Module):
    """Two 3x3 convolutions; a max pool halves the map after the first."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv1 = _identity(channels_in, channels)
        self.bn1 = _batch_norm(channels)
        self.conv2 = _identity(channels, channels)
        self.bn2 = _batch_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.bn1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.bn2(self.conv2(x)))


def _mixtures(count: int, filters: Tensor) -> Tensor:
    """`count` sums of the `filters` (N, M) with random weights, always the same, of length 1."""
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(count, len(filters), generator=random, dtype=filters.dtype)
    return F.normalize(weights).to(filters.device) @ filters


def _identity(channels_in: int, channels: int) -> nn.Conv2d:
    """A 3x3 convolution whose first filters copy the input; the others are random."""
    made = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
    nn.init.dirac_(made.weight.data[:channels_in])
    return made


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm whose scale stays 1, because the next convolution can scale; the bias learns."""
    made = nn.BatchNorm2d(channels, momentum=BATCH_NORM_MOMENTUM)
    made.weight.requires_grad_(False)
    return made
