"""On a GPU: the host waits for nothing within an epoch, and graphs train as plain steps do."""

from __future__ import annotations

import io
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from rich.console import Console

from fasttrain.console.console import Display
from fasttrain.console.eta import Plan
from fasttrain.engine.average import Average
from fasttrain.engine.gradients import in_parts, whole
from fasttrain.engine.graphs import GraphedStep
from fasttrain.engine.loop import fit
from fasttrain.engine.state import Run
from fasttrain.engine.step import Step
from fasttrain.loaders import draws
from fasttrain.loaders.dali import DaliLoader, available
from fasttrain.loaders.mix import MixedLoader, draw_mix
from fasttrain.loaders.resident import ResidentLoader
from fasttrain.loaders.triton import KernelLoader
from fasttrain.models.resnet import ResNet18
from fasttrain.optim.clip import clip_gradients
from fasttrain.optim.schedule import EveryStep, Plateau
from fasttrain.optim.sgd import adamw, muon, sgd
from fasttrain.optim.warm_up import WarmUp
from fasttrain.recipe.recipe import Recipe
from fasttrain.run import resume
from fasttrain.run.ledger import Ledger, gemm_rate
from fasttrain.run.saving import Saver
from tests.conftest import tiny_model
from tests.engine.test_step import batch
from tests.run.test_saving import Slowly

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda", 0)
LOADERS = {"resident": ResidentLoader, "kernel": KernelLoader, "dali": DaliLoader}
RATES = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}


def clipped(model, **options):
    made = adamw(model, **{**options, "lr": 1e-3}, decay_norms=False)
    clip_gradients(made, 0.1)
    return made


OPTIMIZERS = {"torch": sgd, "kernel": partial(sgd, provider="kernel"), "muon": muon}
OPTIMIZERS |= {"adamw, clipped, in parts": clipped}


def step_on_gpu(optimizer="torch", *, graphed=False, average=False, **options):
    model = tiny_model().to(DEVICE).to(memory_format=torch.channels_last)
    gradients = in_parts(2) if "parts" in optimizer else whole
    options["average"] = Average(model, 0.9) if average else None
    step = Step(model, OPTIMIZERS[optimizer](model, **RATES), gradients=gradients, **options)
    return GraphedStep(step) if graphed else step


def loader(kind, split, *, training):
    if kind == "dali" and available():
        pytest.skip(f"DALI: {available()}")
    count = len(split.labels)
    still = draws.in_order(count)
    return LOADERS[kind](
        split,
        partial(draws.draw, seed=0, count=count) if training else lambda epoch: still,
        batch_size=32,
        device=DEVICE,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        hole=8 if training else 0,
        drop_last=training,
    )


@contextmanager
def no_wait():
    """For the block, whatever makes the host wait for the GPU raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("schedule", ["plateau", "onecycle", "cosine"])
@pytest.mark.parametrize("graphed", [False, True])
def test_no_step_of_an_epoch_makes_the_host_wait(tiny_splits, kind, schedule, graphed):
    """Nor do the progress lines, and the copy of the state at the epoch's end."""
    more = schedule == "cosine"  # an average of the weights, and mixed images
    step, text, folder = step_on_gpu(graphed=graphed, average=more), io.StringIO(), Slowly()
    folder.go.set()
    train, test = (loader(kind, half, training=not i) for i, half in enumerate(tiny_splits))
    if more:
        mixes = partial(draw_mix, seed=0, count=32 * len(train), side=32, mixup=0.4, cutmix=1.0)
        train = MixedLoader(train, mixes, batch_size=32, classes=10)
    if schedule == "plateau":
        rate = Plateau(step.optimizer, patience=1, factor=0.1, threshold=0.0)
    else:
        rate = EveryStep(step.optimizer, kind=schedule, lr=0.05, steps=64)
    if schedule == "cosine":  # the warm-up ends within the watched epochs
        rate = WarmUp(rate, step.optimizer, steps=24)
    fit(step, train, test, rate, 1)  # cuDNN, the kernels and the graphs have their first time
    run = Run(epoch=1, history=[])

    def strict(run):
        on = run.phase == "train" and run.step < len(train)
        torch.cuda.set_sync_debug_mode("error" if on else "default")

    saver = Saver(
        folder, lambda now: resume.capture(now, step, rate, Recipe()), Ledger(0.0), every=1e9
    )

    def save(run):
        with no_wait():
            saver.epoch(run)

    plan = Plan(3, len(train), 32, len(test), 128, on_cpu=False)
    with saver, Display(Console(file=text, width=200)).follow(plan) as lines:
        try:
            ends = [save, lines.epoch]  # as a run does; or a busy GPU times no step at all
            fit(step, train, test, rate, 3, run=run, on_step=[lines.step, strict], on_epoch=ends)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert lines.estimate.timed_steps > 0
    assert lines.running.loss == lines.running.loss, "a number has arrived"
    assert "nan" not in text.getvalue()
    assert len(folder.rows) == 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("amp", [None, torch.bfloat16, torch.float16])
def test_captured_steps_train_as_plain_ones(optimizer, amp):
    plain, graphed = (
        step_on_gpu(optimizer, graphed=on, amp=amp, average=True) for on in (False, True)
    )
    for seed in range(6):
        images, labels = (tensor.to(DEVICE) for tensor in batch(seed=seed))
        if seed == 3 and amp is torch.float16:
            images = images * float("inf")  # which the loss scale skips
        losses = []
        for step in (plain, graphed):
            step.lr = 0.05 / (seed + 1)
            losses.append(step(images, labels)[0].clone())
            for layer in step.model.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):  # it has seen the infinities
                    layer.running_mean.nan_to_num_(0.0, 0.0, 0.0)
                    layer.running_var.nan_to_num_(1.0, 1.0, 1.0)
        torch.testing.assert_close(*losses, rtol=2e-2, atol=2e-2, equal_nan=True)
    for one, other in zip(plain.model.parameters(), graphed.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)
    averages = (step.average.parameters() for step in (plain, graphed))
    for one, other in zip(*averages, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)
    assert int(plain.average.n_averaged) == int(graphed.average.n_averaged)
    assert int(plain.average.n_averaged) == (5 if amp is torch.float16 else 6)
    torch.testing.assert_close(plain.sums[3:], graphed.sums[3:])
    assert plain.scaler.get_scale() == graphed.scaler.get_scale()


def test_compiled_and_captured_it_is_still_the_same_training():
    plain, both = step_on_gpu(), step_on_gpu(graphed=True, compile=True)
    for seed in range(4):
        images, labels = (tensor.to(DEVICE) for tensor in batch(seed=seed))
        found = both(images, labels)[0].clone()
        torch.testing.assert_close(plain(images, labels)[0], found, rtol=1e-2, atol=1e-2)


def test_predictions_of_a_graph_are_those_of_the_model():
    step = step_on_gpu(graphed=True, amp=torch.bfloat16)
    step.model.eval()
    images = [batch(seed=seed)[0].to(DEVICE) for seed in (0, 1)]
    with torch.no_grad():
        first, second = map(step.predict, images)
        for one, given in ((first, images[0]), (second, images[1])):
            expected = Step.predict(step, given)
            torch.testing.assert_close(one, expected, rtol=2e-2, atol=2e-2)


def test_the_real_network_trains_in_a_graph_from_any_loader(tiny_splits):
    model = ResNet18().to(DEVICE).to(memory_format=torch.channels_last)
    step = GraphedStep(Step(model, sgd(model, **RATES), amp=torch.bfloat16))
    train, test = (loader("resident", half, training=not i) for i, half in enumerate(tiny_splits))
    rows = fit(step, train, test, Plateau(step.optimizer, patience=9, factor=0.1, threshold=0.0), 4)
    assert rows[-1].train_loss < rows[0].train_loss


def test_a_products_rate_is_a_gpus():
    fast, plain = gemm_rate(DEVICE, torch.float16), gemm_rate(DEVICE, torch.float32)
    assert 1e12 < plain < fast < 1e16
