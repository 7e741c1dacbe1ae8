"""The sprint network starts as its docstrings say, and learns from there."""

import pytest
import torch
from torch.nn import functional as F

from fasttrain.engine.step import Step
from fasttrain.models.sprint import HEAD_SCALE, PATCH, Sprint, Stage
from fasttrain.optim.sgd import muon


@pytest.fixture(scope="module")
def images():
    """Smooth colour patches, as strongly correlated as those of photographs."""
    torch.manual_seed(0)
    return F.interpolate(torch.randn(64, 3, 8, 8), size=32, mode="bilinear") + 0.5


def patches_after(stem: torch.nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    return stem(images).movedim(1, -1).flatten(0, 2).double()


def test_the_whitening_stem_decorrelates_the_patches_of_its_images(images):
    model = Sprint((8, 8, 8))
    before = patches_after(model.stem, images)
    model.whiten_(images)
    half = 3 * PATCH**2
    after = patches_after(model.stem, images)[:, :half]
    second = after.T @ after / len(after)
    off = second - second.diag().diag()
    assert off.abs().max() < 1e-3 < (before.T @ before / len(before)).abs().max()
    # All directions come out alike, apart from those that are nothing but noise.
    assert 0.9 < second.diag().max() <= 1.0


def gray(images):
    return images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)


def test_on_gray_images_no_channel_of_the_stem_is_empty(images):
    model = Sprint((8, 8, 8))
    model.whiten_(gray(images))
    after = patches_after(model.stem, gray(images))[:, : 3 * PATCH**2]
    powers = after.square().mean(dim=0)
    assert 0.5 < powers.min() <= powers.max() < 1.5
    kept = after[:, : PATCH**2]
    second = kept.T @ kept / len(kept)
    assert (second - second.diag().diag()).abs().max() < 1e-3, "gray patches have four directions"


@pytest.mark.parametrize("shade", [-0.42, -0.38, 0.0])
def test_the_first_gradients_on_strokes_are_small(shade, images):
    """As on digits, gray strokes on one shade: empty channels made them 40,000 and more."""
    strokes = torch.where(gray(images) > 0.6, 3 * gray(images), torch.tensor(shade))
    torch.manual_seed(0)
    model = Sprint((64, 64, 64))
    model.whiten_(strokes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(strokes)
    F.cross_entropy(logits.float(), torch.arange(64) % 10).backward()
    gradients = [p.grad for n, p in model.named_parameters() if n.endswith("bias")]
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1


def test_every_filter_of_the_stem_comes_with_its_negative(images):
    model = Sprint((8, 8, 8))
    model.whiten_(images)
    plus, minus = model.stem.weight.chunk(2)
    assert torch.equal(plus, -minus)
    assert not model.stem.weight.requires_grad


def test_convolutions_start_by_handing_their_input_on():
    torch.manual_seed(0)
    stage = Stage(4, 6)
    x = torch.randn(2, 4, 8, 8)
    out = stage.conv1(x)
    torch.testing.assert_close(out[:, :4], x)
    assert out[:, 4:].abs().max() > 0
    torch.testing.assert_close(stage.conv2(out), out)


def test_scales_of_batch_norm_stay_one_and_biases_learn():
    for name, parameter in Sprint((8, 8, 8)).named_parameters():
        if ".bn" in name:
            assert parameter.requires_grad == name.endswith("bias"), name


def test_the_maps_have_half_the_side_after_each_stage():
    model, sides = Sprint((8, 16, 24)), []
    for name in model.stages:
        getattr(model, name).register_forward_hook(
            lambda module, args, out: sides.append(tuple(out.shape[1:]))
        )
    logits = model(torch.randn(2, 3, 32, 32))
    assert sides == [(8, 15, 15), (16, 7, 7), (24, 3, 3)]
    assert logits.shape == (2, 10)
    assert logits.abs().max() < 30 * HEAD_SCALE


def test_a_few_steps_learn_a_batch_by_heart(images):
    torch.manual_seed(0)
    model = Sprint((8, 16, 16)).to(memory_format=torch.channels_last)
    model.whiten_(images)
    step = Step(model, muon(model, lr=0.1, momentum=0.85, weight_decay=0.0), label_smoothing=0.1)
    labels = torch.arange(64) % 10
    losses = [float(step(images, labels)[0]) for _ in range(25)]
    assert losses[-1] < 0.6 * losses[0]
