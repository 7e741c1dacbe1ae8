"""The clipping of gradients against torch's clip_grad_norm_ and against arithmetic."""

import copy
import math
from functools import partial

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from fasttrain.engine import metrics
from fasttrain.engine.step import Step
from fasttrain.errors import Diverged
from fasttrain.optim.clip import clip_gradients
from fasttrain.optim.sgd import adamw, muon, sgd
from tests.conftest import tiny_model, tiny_step
from tests.engine.test_step import batch

MAKERS = {
    "sgd": partial(sgd, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "adamw": partial(adamw, lr=0.1, weight_decay=1e-2),
    "muon": partial(muon, lr=0.1, momentum=0.9, weight_decay=1e-2),
}


def give_gradients(model, *, size=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        given = size * torch.randn(weight.shape, generator=generator)
        weight.grad = torch.empty_like(weight).copy_(given)  # in channels_last, as autograd's


@pytest.mark.parametrize("norm", [0.5, 1e4])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_update_is_that_of_torchs_clipped_gradients(make, norm):
    ours, theirs, control = tiny_model(), tiny_model(), tiny_model()
    clipped, plain, never = (make(model) for model in (ours, theirs, control))
    clip_gradients(clipped, norm)
    for seed in range(3):
        for model, optimizer in ((ours, clipped), (theirs, plain), (control, never)):
            give_gradients(model, seed=seed, size=1 + seed)
            if optimizer is plain:
                clip_grad_norm_(model.parameters(), norm)
            optimizer.step()
    pairs = zip(ours.parameters(), theirs.parameters(), control.parameters(), strict=True)
    for one, other, free in pairs:
        torch.testing.assert_close(one, other)
        if norm > 1 or make is MAKERS["sgd"]:  # the others' first updates hardly see the size
            assert torch.equal(one, free) == (norm > 1)


def test_the_norm_is_that_of_all_gradients_together():
    model = tiny_model()
    optimizer = sgd(model, lr=0.0, momentum=0.0, weight_decay=0.0)
    clip_gradients(optimizer, 0.25)
    give_gradients(model)
    optimizer.step()
    squares = sum(float(weight.grad.double().square().sum()) for weight in model.parameters())
    assert math.sqrt(squares) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_gradients_that_are_still_scaled_are_measured_unscaled(make):
    models, scale = [tiny_model(), tiny_model()], 1024.0
    for model in models:
        optimizer = make(model)
        clip_gradients(optimizer, 0.5)
        give_gradients(model)
        if model is models[1]:  # as a GradScaler does
            for weight in model.parameters():
                weight.grad.mul_(scale)
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(0.0)
        optimizer.step()
    torch.testing.assert_close(*(list(model.parameters()) for model in models))


def clipped_step(norm, **options):
    step = tiny_step(lr=0.1, **options)
    clip_gradients(step.optimizer, norm)
    return step


def test_with_the_loss_scale_of_fp16_a_step_moves_as_without():
    """Against the same step in fp16 whose gradients torch has unscaled and clipped itself."""
    step, (images, labels) = clipped_step(0.05, amp=torch.float16), batch()
    other = tiny_step(lr=0.1, amp=torch.float16)
    loss, _ = other._train(images, labels)
    other.scaler.scale(loss).backward()
    other.scaler.unscale_(other.optimizer)
    assert float(clip_grad_norm_(other.model.parameters(), 0.05)) > 0.05
    other.scaler.step(other.optimizer)
    step(images, labels)
    torch.testing.assert_close(list(step.model.parameters()), list(other.model.parameters()))


def test_an_overflow_is_skipped_and_the_scale_halved_as_without_clipping():
    step, (images, labels) = clipped_step(0.5, amp=torch.float16), batch()
    before, scale = copy.deepcopy(list(step.model.parameters())), step.scaler.get_scale()
    step(images * math.inf, labels)
    assert all(map(torch.equal, step.model.parameters(), before))
    assert step.scaler.get_scale() == scale / 2
    assert step.sums[metrics.SKIPPED] == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_a_norm_that_is_not_finite_ends_the_epoch(bad):
    """The square of 1e30 is infinite: torch alone would make an update of zero of it."""
    step = clipped_step(0.5)
    weight = step.model[-1].weight
    once = weight.register_hook(lambda gradient: (once.remove(), gradient * 0 + bad)[1])
    step(*batch())
    metrics.record_weights(step.sums, step.model)
    with pytest.raises(Diverged, match=r"weights \(nan\): not finite"):
        metrics.raise_if_diverged(metrics.compute(step.sums, 1), epoch=1, step=1)


def test_what_has_no_gradient_is_left_alone():
    step = clipped_step(0.5)
    step.model[0].weight.requires_grad_(False)
    before = step.model[0].weight.clone()
    step(*batch())
    assert torch.equal(step.model[0].weight, before)


def test_a_plain_step_has_no_hook():
    assert not tiny_step().optimizer._optimizer_step_pre_hooks  # the control is every test above
    assert type(tiny_step()) is Step
