"""Replacements for parts of the sprint that no flag changes, for `benchmarks.switches`.

They are kept out of the package because no run uses them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasttrain.models import sprint
from fasttrain.optim.muon import Muon
from fasttrain.recipe.named import LEVELS, RECIPES

AVERAGE_EVERY, AVERAGE_DECAY = 5, 0.95  # airbench's lookahead
STEPS = 50_000 // int(RECIPES["sprint"]["batch_size"]) * int(LEVELS[0][1]["epochs"])


def late_pooling(stage: sprint.Stage, x: Tensor) -> Tensor:
    """Stage.forward with the pooling after BatchNorm and GELU."""
    x = F.max_pool2d(F.gelu(stage.bn1(stage.conv1(x))), 2)
    return F.gelu(stage.bn2(stage.conv2(x)))


def mean_head(model: sprint.Sprint, x: Tensor) -> Tensor:
    """Sprint.forward with the mean of the last map and undivided logits."""
    x = model.layer3(model.layer2(model.layer1(F.gelu(model.stem(x)))))
    return model.fc(x.mean(dim=(2, 3)))


def random_filters(channels_in: int, channels: int) -> nn.Conv2d:
    """A 3x3 convolution with torch's default initialisation."""
    return nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)


def scaling_batch_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm with a learned scale."""
    return nn.BatchNorm2d(channels, momentum=sprint.BATCH_NORM_MOMENTUM)


class Averaged(Muon):
    """Muon that replaces the weights by their slow average at every fifth step.

    The decay of the average grows with the third power of the finished share of STEPS.
    """

    done = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = super().step(closure)
        self.done += 1
        decay = AVERAGE_DECAY**AVERAGE_EVERY * (self.done / STEPS) ** 3
        if self.done % AVERAGE_EVERY == 0:
            for weights in self.state:
                slow = self.state[weights].setdefault("slow", weights.clone())
                weights.copy_(slow.lerp_(weights, 1 - decay))
        return loss
