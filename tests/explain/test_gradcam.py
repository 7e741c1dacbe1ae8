"""Grad-CAM against its closed form and a per-image reference; the model is left unchanged."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasttrain.errors import UsageError
from fasttrain.explain.gradcam import GradCAM

CLASSES = 5


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """With a core busy, two threads took 200 times as long over so little: 10 ms a barrier."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Block(nn.Module):
    """A residual block with in-place ReLUs, which overwrite an activation kept without a copy."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)) + self.shortcut(x), inplace=True)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = Block(8, 12, 2)
        self.layer2 = nn.Sequential(Block(12, 16, 2), Block(16, 16, 1))
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(16, CLASSES)
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.relu(self.bn(self.stem(x))))
        if self.fails:
            raise ZeroDivisionError("in the middle of the forward")
        return self.fc(self.drop(self.layer2(x)).mean(dim=(2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(12)
    model = Net()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.train()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([0, 1, 2, 3, 4, 2])


def enlarged(maps: np.ndarray, side: int, step: int) -> np.ndarray:
    """Bilinear enlargement of a map whose entry i lies at pixel i * step, written out."""
    at = np.clip(np.arange(side) / step, 0, maps.shape[0] - 1)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, maps.shape[0] - 1), at - low
    rows = maps[low] * (1 - part)[:, None] + maps[high] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, high] * part


def reference(model: nn.Module, layer: str, images: Tensor, targets: Tensor) -> np.ndarray:
    """An image at a time, activation and gradient from retain_grad and backward on a copy.

    Net's 3x3 windows with padding 1 begin at the corner: entry i lies at i strides.
    """
    model = copy.deepcopy(model).eval()
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        output.retain_grad()
        kept.append(output)
        return output * 1

    model.get_submodule(layer).register_forward_hook(keep)
    maps = []
    for image, target in zip(images, targets, strict=True):
        kept.clear()
        model(image[None])[0, target].backward()
        gradient, activation = kept[0].grad[0].numpy(), kept[0][0].detach().numpy()
        weights = gradient.mean(axis=(1, 2), keepdims=True)
        coarse = np.maximum((weights * activation).sum(axis=0), 0)
        side = images.shape[-1]
        fine = enlarged(coarse, side, side // coarse.shape[-1])
        maps.append(fine / fine.max() if fine.max() > 0 else fine)
    return np.stack(maps)


def marks(model: nn.Module) -> dict[str, object]:
    """Everything that Grad-CAM must not change in the model."""
    return {
        "state": {key: value.numpy().tobytes() for key, value in model.state_dict().items()},
        "places": {key: value.data_ptr() for key, value in model.state_dict().items()},
        "parameters": [id(parameter) for parameter in model.parameters()],
        "gradients": [
            (id(parameter.grad), None if parameter.grad is None else parameter.grad.sum().item())
            for parameter in model.parameters()
        ],
        "wanted": [parameter.requires_grad for parameter in model.parameters()],
        "training": [module.training for module in model.modules()],
        "hooks": [
            (
                len(module._forward_hooks),
                len(module._forward_pre_hooks),
                len(module._backward_hooks),
            )
            for module in model.modules()
        ],
        "modes": (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")),
    }


def test_two_channel_toy_gives_the_map_known_in_closed_form() -> None:
    """A_c = a_c x and mean pooling: relu(s x) over its peak, s = sum over c of w[target, c] a_c."""
    conv, fc = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(2, 3, bias=False)
    a, w = torch.tensor([2.0, -1.0]), torch.tensor([[1.0, 0.5], [-0.5, 1.0], [1.0, 2.0]])
    with torch.no_grad():
        conv.weight.copy_(a.view(2, 1, 1, 1))
        fc.weight.copy_(w)
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    s = (w @ a).tolist()
    assert s == [1.5, -2.0, 0.0]
    with GradCAM(model, "0") as cam:
        maps = cam(x, torch.tensor([0, 1, 2]))
    up, down = x[0, 0].relu(), (-x[1, 0]).relu()
    torch.testing.assert_close(maps[0], up / up.max(), rtol=0, atol=1e-6)
    torch.testing.assert_close(maps[1], down / down.max(), rtol=0, atol=1e-6)
    assert torch.equal(maps[2], torch.zeros(4, 4)), "a map that is all zero must stay so, not NaN"


# Before a ReLU channels of both signs cancel, and float32's rounding is divided by a small peak.
LAYERS = {"stem": 1e-6, "layer1.conv": 1e-6, "layer1": 1e-6, "layer2": 1e-6}
SIGNED_LAYERS = {"bn": 5e-6, "layer2.0.bn": 5e-6}


@pytest.mark.parametrize(("layer", "tolerance"), [*LAYERS.items(), *SIGNED_LAYERS.items()])
def test_a_batch_of_distinct_targets_equals_a_loop_over_the_images(
    net: Net, images: Tensor, layer: str, tolerance: float
) -> None:
    with GradCAM(net, layer) as cam:
        maps = cam(images, TARGETS)
    assert maps.shape == (6, 16, 16)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert (maps.amax(dim=(1, 2)) == 1).sum() >= 4, "maps of zeros would agree too easily"
    expected = reference(net.double(), layer, images.double(), TARGETS)
    np.testing.assert_allclose(maps.numpy(), expected, rtol=0, atol=tolerance)


def test_the_map_of_another_target_is_another_map(net: Net, images: Tensor) -> None:
    with GradCAM(net, "layer2") as cam:
        maps, others = cam(images, TARGETS), cam(images, (TARGETS + 1) % CLASSES)
    far = (maps - others).abs().amax(dim=(1, 2))
    assert (far > 0.1).all(), "the reference above would accept a map that ignores its target"


def test_several_layers_in_one_pass_equal_single_ones(net: Net, images: Tensor) -> None:
    names = ["layer2", "stem", "layer1.bn"]
    with GradCAM(net, *names) as cam:
        together = cam.layers(images, TARGETS.tolist(), size=(8, 10))
        with pytest.raises(ValueError, match="3 layers"):
            cam(images, TARGETS)
    assert list(together) == names
    for name in names:
        with GradCAM(net, name) as cam:
            alone = cam(images, TARGETS, size=(8, 10))
        assert alone.shape == (6, 8, 10)
        torch.testing.assert_close(together[name], alone, rtol=0, atol=1e-6)


def test_nothing_is_left_behind(net: Net, images: Tensor) -> None:
    net.layer1.bn.eval()
    net.stem.weight.requires_grad_(False)
    net(images).sum().backward()
    before = marks(net)
    with GradCAM(net, "layer1", "layer2") as cam:
        cam.layers(images, TARGETS)
        inside = marks(net)
    assert marks(net) == before
    assert inside.pop("hooks") != before["hooks"], "the comparison must see hooks"
    assert inside == {key: value for key, value in before.items() if key != "hooks"}
    net(images)
    assert marks(net) != before, "the comparison must see BatchNorm's buffers move"


def test_nothing_is_left_behind_by_an_exception(net: Net, images: Tensor) -> None:
    net.fc.eval()
    before = marks(net)
    net.fails = True
    with pytest.raises(ZeroDivisionError), GradCAM(net, "layer1", "layer2") as cam:
        cam.layers(images, TARGETS)
    net.fails = False
    assert marks(net) == before
    with GradCAM(net, "layer2") as cam:
        with pytest.raises(ValueError, match="5 classes"):
            cam(images, TARGETS + 1)
        assert cam(images, TARGETS).isfinite().all()
    assert marks(net) == before


def test_a_forward_between_calls_is_not_touched(net: Net, images: Tensor) -> None:
    net.eval().requires_grad_(False)
    plain = net(images)
    with GradCAM(net, "layer1") as cam:
        cam(images, TARGETS)
        between = net(images)
    assert torch.equal(between, plain)
    assert not between.requires_grad, "outside of a call the hook must not begin a graph"


def test_nothing_before_the_layer_is_recorded(net: Net, images: Tensor) -> None:
    wanted = []
    for module in (net.stem, net.layer1, net.layer2):
        module.register_forward_pre_hook(lambda m, inputs: wanted.append(inputs[0].requires_grad))
    with GradCAM(net, "layer1") as cam:
        cam(images, TARGETS)
    assert wanted == [False, False, True]


def test_frozen_parameters_give_the_same_maps(net: Net, images: Tensor) -> None:
    with GradCAM(net, "layer1") as cam:
        maps = cam(images, TARGETS)
        net.requires_grad_(False)
        assert torch.equal(cam(images, TARGETS), maps)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callers_without_gradients_get_the_same_maps(
    net: Net, images: Tensor, mode: Callable[[], Any]
) -> None:
    with GradCAM(net, "stem", "layer2") as cam:
        expected = cam.layers(images, TARGETS)
        with mode():
            maps = cam.layers(images * 1, TARGETS * 1)
    for name, want in expected.items():
        assert torch.equal(maps[name], want)


def test_images_born_in_inference_mode_may_be_the_layer_itself(images: Tensor) -> None:
    head = [nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(nn.Identity(), *head)
    with GradCAM(model, "0") as cam:
        expected = cam(images, TARGETS % 2)
        with torch.inference_mode():
            assert torch.equal(cam(images * 1, TARGETS % 2), expected)
    assert not images.requires_grad


def test_ambient_autocast_changes_no_bit(net: Net, images: Tensor) -> None:
    net.eval()
    with GradCAM(net, "layer2") as cam:
        expected = cam(images, TARGETS)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert net(images).dtype == torch.bfloat16
            maps = cam(images, TARGETS)
    assert torch.equal(maps, expected)


def test_half_precision_images_and_weights_are_computed_in_float32(
    net: Net, images: Tensor
) -> None:
    half = copy.deepcopy(net).bfloat16()
    rounded = copy.deepcopy(half).float()
    with GradCAM(half, "layer2") as cam, GradCAM(rounded, "layer2") as wide:
        maps = cam(images.bfloat16(), TARGETS)
        assert maps.dtype == torch.float32
        assert torch.equal(maps, wide(images.bfloat16().float(), TARGETS))
    assert half.fc.weight.dtype == torch.bfloat16


def test_it_works_beside_a_compiled_step_and_recompiles_nothing(net: Net, images: Tensor) -> None:
    graphs: list[object] = []

    def counting(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    with GradCAM(net, "layer2") as cam:
        expected = cam(images, TARGETS)
    net.eval()
    compiled = torch.compile(net, backend=counting)
    logits = compiled(images)
    compiled_once = len(graphs)
    assert compiled_once > 0
    for model in (net, compiled):
        with GradCAM(model, "layer2") as cam:
            assert torch.equal(cam(images, TARGETS), expected)
            assert torch.equal(compiled(images), logits)
        assert torch.equal(compiled(images), logits)
    assert len(graphs) == compiled_once


def test_no_images_give_no_maps(net: Net, images: Tensor) -> None:
    with GradCAM(net, "layer2") as cam:
        assert cam(images[:0], TARGETS[:0]).shape == (0, 16, 16)


@pytest.mark.parametrize("wrong", ["layer9", "", "layer2.9"])
def test_a_wrong_layer_is_answered_with_the_right_ones(net: Net, wrong: str) -> None:
    with pytest.raises(UsageError, match=r"stem, .*layer2\.1\.bn"):
        GradCAM(net, wrong)
    with pytest.raises(UsageError):
        GradCAM(net)


def test_a_layer_without_an_image_for_output_is_refused(net: Net, images: Tensor) -> None:
    net.add_module("unused", nn.Conv2d(3, 3, 1))
    for layer, why in (("fc", r"shape \(6, 5\)"), ("unused", "did not call it")):
        with pytest.raises(UsageError, match=why), GradCAM(net, layer) as cam:
            cam(images, TARGETS)


def test_wrong_calls_are_refused(net: Net, images: Tensor) -> None:
    with GradCAM(net, "layer2") as cam:
        with pytest.raises(ValueError, match="6 images but 5 targets"):
            cam(images, TARGETS[:5])
        with pytest.raises(ValueError, match=r"images \(3, 16, 16\): .*\(N, C, H, W\)"):
            cam(images[0], TARGETS[:3])
    with pytest.raises(RuntimeError, match="with block"):
        cam(images, TARGETS)
