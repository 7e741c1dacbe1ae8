"""Images laid side by side are convolved as each alone, forward and backward."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fasttrain.data import cifar10, synthetic
from fasttrain.engine.build import build
from fasttrain.explain.gradcam import GradCAM
from fasttrain.machine import auto
from fasttrain.models import packed_conv
from fasttrain.models.flops import training_flops
from fasttrain.models.packed_conv import PackedConv2d, convolve, join, pack_convolutions, part
from fasttrain.models.resnet import ResNet18
from fasttrain.recipe.recipe import Recipe

CPU = torch.device("cpu")


def tensors(stride=1, *, side=8, n=8, inside=6, outside=5, dtype=torch.float32):
    """Images of 8 x 8 (16 x 16 for stride 2), filters, and the gradient of what comes out."""
    generator = torch.Generator().manual_seed(0)
    wide = side * stride
    shapes = (n, inside, wide, wide), (outside, inside, 3, 3), (n, outside, side, side)
    made = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    return [tensor.to(memory_format=torch.channels_last) for tensor in made]


def gradients(function, images, weight, grad):
    """What comes out, and the gradients with respect to images and weight."""
    images, weight = images.clone().requires_grad_(), weight.clone().requires_grad_()
    out = function(images, weight)
    return out.detach(), *torch.autograd.grad(out, (images, weight), grad)


@pytest.fixture(params=[(1, False), (1, True), (2, False)], ids=["plain", "joined", "stride 2"])
def case(request, monkeypatch):
    """(stride, everything that can be is joined)."""
    stride, joined = request.param
    monkeypatch.setattr(packed_conv, "LEAVE_CACHE", 0 if joined else 10**9)
    return stride


def test_in_float32_it_is_the_plain_convolution_to_1e_4(case):
    made = tensors(case, n=32, inside=32, outside=48)
    ours = gradients(lambda x, w: convolve(x, w, stride=case, count=16), *made)
    plain = gradients(lambda x, w: F.conv2d(x, w, stride=case, padding=1), *made)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert ours[0].is_contiguous(memory_format=torch.channels_last)


def test_maps_of_seven_are_convolved_as_those_of_eight(case):
    made = tensors(case, side=7, n=16, inside=16, outside=24)
    ours = gradients(lambda x, w: convolve(x, w, stride=case, count=8), *made)
    plain = gradients(lambda x, w: F.conv2d(x, w, stride=case, padding=1), *made)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_its_gradients_are_those_of_finite_differences(case):
    images, weight, _ = tensors(case, n=4, inside=2, outside=2, dtype=torch.float64)
    inputs = images.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: convolve(x, w, stride=case, count=4), inputs)


def test_in_bfloat16_it_is_as_near_to_float32_as_the_plain_convolution(case):
    made = tensors(case, n=32, inside=64, outside=64)
    exact = gradients(lambda x, w: F.conv2d(x, w, stride=case, padding=1), *made)
    half = [tensor.bfloat16() for tensor in made]
    plain = gradients(lambda x, w: F.conv2d(x, w, stride=case, padding=1), *half)
    ours = gradients(lambda x, w: convolve(x, w, stride=case, count=32), *half)
    for one, two, true in zip(ours, plain, exact, strict=True):
        assert one.dtype is torch.bfloat16
        error, usual = ((found.float() - true).norm() / true.norm() for found in (one, two))
        assert error < 1.1 * usual + 1e-4


def test_neighbours_that_see_one_another_are_noticed(case, monkeypatch):
    def without_zeros(images, count, *, gap=1):
        row = join(images, count, gap=gap)
        row.unflatten(3, (count, -1))[..., -gap:] = 1
        return row

    monkeypatch.setattr(packed_conv, "join", without_zeros)
    made = tensors(case, n=32)
    ours = gradients(lambda x, w: convolve(x, w, stride=case, count=16), *made)
    plain = gradients(lambda x, w: F.conv2d(x, w, stride=case, padding=1), *made)
    same = [torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(ours, plain, strict=True)]
    joined = packed_conv.LEAVE_CACHE == 0
    assert same == [not joined, not joined, False]


def test_what_is_joined_comes_apart_again():
    images = tensors()[0]
    row = join(images, 4)
    assert row.shape == (2, 6, 8, 36)
    assert row.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(row[0, :, :, 9:17], images[1])
    assert not row[..., 8::9].any()
    assert torch.equal(part(row, 4), images)


def laid(model):
    pack_convolutions(model)
    return model


def test_the_mission_network_keeps_its_names_weights_and_float32_results():
    torch.manual_seed(0)
    model = ResNet18().eval()
    before, names = copy.deepcopy(model), list(model.state_dict())
    kinds = [type(module) for module in laid(model).modules()]
    assert kinds.count(PackedConv2d) == 8  # layer3 and layer4, without their 1x1 convolutions
    assert list(model.state_dict()) == names
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    images = torch.randn(32, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), before(images))
    targets = torch.arange(2)
    with GradCAM(model, "layer4") as ours, GradCAM(before, "layer4") as theirs:
        one, other = ours(images[:2], targets), theirs(images[:2], targets)
    assert torch.equal(one, other)


def test_a_bf16_step_of_the_network_is_that_of_plain_convolutions(monkeypatch):
    torch.manual_seed(0)
    plain = ResNet18().to(memory_format=torch.channels_last).train()
    ours = laid(copy.deepcopy(plain))
    used = []
    monkeypatch.setattr(
        packed_conv, "convolve", lambda *a, **k: used.append(1) or convolve(*a, **k)
    )
    images = torch.randn(32, 3, 32, 32).to(memory_format=torch.channels_last)
    grads = []
    for model in (plain, ours):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(images).float(), torch.arange(32) % 10)
        loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert len(used) == 8
    assert (grads[0] - grads[1]).norm() < 0.05 * grads[0].norm()


def test_its_operations_are_counted_as_those_of_the_plain_network():
    assert training_flops(laid(ResNet18())) == training_flops(ResNet18())


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((33, 4, 8, 8), "an odd batch"),
        ((16, 4, 8, 8), "a small batch"),
        ((32, 4, 16, 16), "a wider map"),
    ],
)
def test_what_would_not_gain_is_convolved_plainly(monkeypatch, shape, why):
    conv = laid(nn.Sequential(nn.Conv2d(4, 256, 3, padding=1, bias=False)))
    monkeypatch.setattr(packed_conv, "convolve", lambda *a, **k: pytest.fail(why))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(torch.randn(shape)).shape[1] == 256
    monkeypatch.setattr(packed_conv, "convolve", lambda *a, **k: "side by side")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(torch.randn(32, 4, 8, 8)) == "side by side"


def test_only_convolutions_that_it_can_do_are_replaced():
    for options in ({"bias": True}, {"dilation": 2}, {"groups": 2}, {"stride": 3}, {"padding": 0}):
        given = {"padding": 1, "bias": False, **options}
        assert not any(
            isinstance(m, PackedConv2d) for m in laid(nn.Sequential(nn.Conv2d(4, 256, 3, **given)))
        )
    assert type(laid(nn.Sequential(nn.Conv2d(4, 128, 3, padding=1, bias=False)))[0]) is nn.Conv2d


@pytest.mark.parametrize(("amx", "amp"), [(True, "bf16"), (True, "off"), (False, "bf16")])
def test_it_is_built_in_for_bf16_on_a_cpu_with_amx_and_nowhere_else(monkeypatch, amx, amp):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": amx})
    recipe = Recipe(batch_size=8, lr=0.1, amp=amp, loader="resident", device="cpu")
    train, test = synthetic.load(16, 8)
    built = build(recipe, cifar10.data(train, test))
    found = any(isinstance(module, PackedConv2d) for module in built.step.model.modules())
    assert found == (amx and amp == "bf16")
    assert auto.convolutions(torch.device("cuda", 0), "bf16").value == "plain"
