"""The named networks have their published sizes, take images of any side, and learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fasttrain.data import Split, cifar10, synthetic
from fasttrain.engine import build as engine_build
from fasttrain.errors import UsageError
from fasttrain.explain.gradcam import GradCAM
from fasttrain.models import build
from fasttrain.models.resnet import ResNet18, ResNet34, ResNet50, stem
from fasttrain.models.stages import stages
from fasttrain.models.wide_resnet import WideResNet
from fasttrain.recipe.named import MODELS
from fasttrain.recipe.recipe import Recipe

SIDES = (28, 32, 64, 96, 224)


def network(model: str, **options) -> nn.Module:
    return build.network(Recipe(model=model, widths="8,16,24"), **options)


def size(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("make", "published"),
    [
        (lambda: ResNet18(), 11_173_962),
        (lambda: ResNet34(), 21_282_122),
        (lambda: ResNet50(), 23_520_842),
        (lambda: WideResNet(16, 8), 10_961_370),
        (lambda: WideResNet(28, 10), 36_479_194),
        # torchvision's, whose stem and strides these are for 1,000 classes at 224
        (lambda: ResNet18(1000, 224), 11_689_512),
        (lambda: ResNet34(1000, 224), 21_797_672),
        (lambda: ResNet50(1000, 224), 25_557_032),
    ],
)
def test_networks_have_as_many_parameters_as_published(make, published):
    with torch.device("meta"):
        assert size(make()) == published


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "pooled", "after"),
    [
        (28, 3, 1, False, 28),
        (64, 3, 1, False, 64),
        (65, 3, 2, False, 33),
        (128, 3, 2, False, 64),
        (129, 7, 2, True, 33),
        (224, 7, 2, True, 56),
    ],
)
def test_the_stem_follows_the_side(side, kernel, stride, pooled, after):
    conv, has_pool, map_side = stem(16, side)
    assert (conv.kernel_size[0], conv.stride[0], has_pool, map_side) == (
        kernel,
        stride,
        pooled,
        after,
    )
    maps = conv(torch.zeros(1, 3, side, side))
    maps = nn.functional.max_pool2d(maps, 3, 2, 1) if has_pool else maps
    assert maps.shape[2] == after


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("model", MODELS)
def test_every_network_makes_logits_of_images_of_every_side(model, side):
    with torch.device("meta"):  # shapes alone: a forward of the widest takes a second on a core
        made = network(model, classes=7, side=side)
        assert made(torch.zeros(2, 3, side, side)).shape == (2, 7)
        assert stages(made, side=side) == made.stages
        assert made.get_submodule(made.stages[-1])
    head = made.fc
    assert head.out_features == 7


@pytest.mark.parametrize(
    ("side", "maps"), [(28, (28, 14, 7, 7)), (32, (32, 16, 8, 8)), (64, (64, 32, 16, 8))]
)
@pytest.mark.parametrize("make", [ResNet18, ResNet50])
def test_the_last_stage_keeps_maps_of_8x8_and_halves_larger_ones(make, side, maps):
    seen = []
    with torch.device("meta"):
        model = make(10, side)
        for name in model.stages:
            model.get_submodule(name).register_forward_hook(
                lambda module, inputs, output: seen.append(output.shape[2])
            )
        model(torch.zeros(1, 3, side, side))
    assert tuple(seen) == maps


@pytest.mark.parametrize("side", [9, 10, 11, 17, 28, 31, 33])
def test_the_sprint_network_learns_at_even_and_odd_sides(side):
    model = network("sprint", images=lambda: torch.randn(20, 3, side, side), side=side, classes=3)
    loss = nn.functional.cross_entropy(
        model(torch.randn(4, 3, side, side)), torch.tensor([0, 1, 2, 0])
    )
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("side", [1, 8])
def test_images_too_small_for_the_sprint_network_are_refused(side):
    with pytest.raises(
        UsageError, match=rf"--model \(sprint\): takes images from 9 .* have {side}"
    ):
        network("sprint", side=side)


@pytest.mark.parametrize("model", ["resnet18", "resnet50", "wrn-16-8"])
def test_grad_cam_finds_the_last_stage_at_another_side(model):
    torch.manual_seed(0)
    made = network(model, side=48, classes=5)
    with GradCAM(made, stages(made, side=48)[-1]) as cam:
        maps = cam(torch.randn(1, 3, 48, 48), [3])
    assert maps.shape == (1, 48, 48)


@pytest.mark.parametrize(("side", "model"), [(28, "resnet18"), (64, "sprint"), (20, "wrn-16-8")])
def test_a_recipe_trains_at_another_side(side, model, monkeypatch):
    monkeypatch.setattr(build, "WideResNet", lambda layers, width, **o: WideResNet(10, 1, **o))
    recipe = Recipe(
        model=model, widths="8,8,8", batch_size=8, lr=0.05, device="cpu", loader="resident"
    )
    built = engine_build.build(recipe, cifar10.data(*synthetic.load(16, 8, side=side)))
    losses = [float(built.step(images, labels)[0]) for images, labels in built.train]
    assert np.isfinite(losses).all()
    assert len(losses) == 2
    with torch.no_grad():
        assert built.step.predict(next(iter(built.test)).images).shape == (8, 10)


@pytest.mark.parametrize("balance", ["none", "loss", "sample"])
def test_balance_reaches_the_step_or_the_draw(balance):
    recipe = Recipe(
        balance=balance,
        batch_size=10,
        lr=0.05,
        device="cpu",
        loader="resident",
        model="sprint",
        widths="8,8,8",
    )
    images = synthetic.load(50, 10)[0].images
    train = Split(images, np.array([0] * 40 + [1] * 10))
    data = cifar10.data(train, Split(images[:10], train.labels[:10]))
    built = engine_build.build(recipe, data)
    weights = built.step.class_weights
    shown = np.bincount(torch.cat([labels for _, labels in built.train]).numpy(), minlength=2)
    if balance == "loss":
        # 40^-0.5 : 10^-0.5 is 1 : 2, and (40 * 1 + 10 * 2) / 50 is 1.2
        torch.testing.assert_close(weights[:2], torch.tensor([1 / 1.2, 2 / 1.2]))
    else:
        assert weights is None
    # 50 images by shares of 40 * 1 to 10 * 2
    assert abs(shown[1] - (50 / 3 if balance == "sample" else 10)) < 1
