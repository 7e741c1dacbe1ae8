"""How many launches a step costs, and that none of them makes the host wait, on meta tensors.

A meta tensor has no value: whatever would read one on the host raises. The counts are pinned: at
batch 128 on a GPU a step is as fast as the host launches it, unless a graph replays it.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

from fasttrain.console import progress
from fasttrain.console.eta import Plan
from fasttrain.engine import evaluation, loop, metrics
from fasttrain.engine.gradients import in_parts, whole
from fasttrain.engine.step import Step
from fasttrain.loaders import draws
from fasttrain.models.resnet import ResNet18
from fasttrain.models.sprint import Sprint
from fasttrain.optim.clip import clip_gradients
from fasttrain.optim.schedule import EveryStep, Plateau
from fasttrain.optim.sgd import adamw, muon, sgd
from fasttrain.optim.warm_up import WarmUp
from tests.conftest import tiny_loader, tiny_model
from tests.taped import Launches, to_meta

RATES = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
BATCH = 128


@pytest.fixture(autouse=True)
def _fused(monkeypatch):
    """torch's fused updates have no meta kernel; here they are one launch all the same."""
    one = lambda params, *rest, **options: params[0].mul_(1)  # noqa: E731
    monkeypatch.setattr(torch, "_fused_sgd_", one)
    monkeypatch.setattr(torch, "_fused_adamw_", one)


def meta_step(make, optimizer=sgd, **options) -> Step:
    with torch.device("meta"):
        model = make().to(memory_format=torch.channels_last)
    model.to_empty(device="cpu")  # optimizers refuse a rate whose value they cannot read
    return to_meta(Step(model, optimizer(model, **RATES), **options))


def batch(size=BATCH):
    images = torch.empty(size, 3, 32, 32, device="meta").to(memory_format=torch.channels_last)
    return images, torch.empty(size, dtype=torch.int64, device="meta")


def launches(function, *arguments, **options):
    with Launches() as counted:
        function(*arguments, **options)
    return len(counted.names)


def pinned(found, most):
    """At most so many, and so near that a launch more in every layer would show."""
    assert 0.97 * most <= found <= most


def test_a_step_of_resnet18_is_162_launches_and_12_of_metrics():
    step = meta_step(ResNet18)
    pinned(launches(step, *batch()), 174)
    one, logits = torch.empty((), device="meta"), torch.empty(BATCH, 10, device="meta")
    (_, labels), skipped = batch(), one > 0

    def record(**scaling):
        metrics.record_step(step.sums, step.lr, **scaling)
        metrics.update(step.sums, one, logits, labels)

    assert launches(record) == 12
    assert launches(record, scale=one, skipped=skipped) == 17


def clipped(optimizer, model, **options):
    made = optimizer(model, **options)
    clip_gradients(made, 1.0)
    return made


def test_what_clipping_groups_and_parts_cost_in_launches():
    plain = launches(meta_step(ResNet18), *batch())
    groups = meta_step(ResNet18, partial(sgd, decay_norms=False, nesterov=True))
    assert launches(groups, *batch()) == plain + 1
    assert launches(meta_step(ResNet18, adamw), *batch()) == plain + 1, "its count of steps"
    # 62 norms and 62 products, which on a GPU are two launches of foreach, and eight more.
    assert launches(meta_step(ResNet18, partial(clipped, sgd)), *batch()) == plain + 2 * 62 + 8
    halves = launches(meta_step(ResNet18, gradients=in_parts(2)), *batch())
    assert 2 * (plain - 12) < halves < 2 * (plain + 60), "sums of gradients are launches, too"


def test_muons_update_of_the_sprint_is_276_launches_of_353():
    step = meta_step(partial(Sprint, (64, 256, 256)), muon)
    pinned(launches(step, *batch()), 353)
    for weight in step.model.parameters():
        weight.grad = torch.empty_like(weight) if weight.requires_grad else None
    pinned(launches(step.optimizer.step), 276)


def test_a_batch_of_the_evaluation_is_76_launches(monkeypatch):
    step, read = meta_step(ResNet18), []
    monkeypatch.setattr(metrics, "evaluation", read.append)
    one, two = (
        launches(evaluation.measure, step, [batch(1000)] * n, None, (), step.predict, lambda s: s)
        for n in (1, 2)
    )
    pinned(two - one, 76)
    assert len(read) == 2


class Over(Exception):
    """The end of an epoch, where the host reads the sums."""


def over(*args):
    raise Over


@pytest.mark.parametrize(
    ("kind", "optimizer", "amp", "warm"),
    [
        ("onecycle", sgd, None, 0),
        ("cosine", sgd, torch.float16, 0),
        ("linear", muon, torch.float16, 0),
        ("plateau", muon, None, 0),
        ("plateau", partial(clipped, adamw), torch.float16, 7),
        ("cosine", partial(clipped, sgd, decay_norms=False), torch.float16, 7),
        ("onecycle", partial(clipped, muon), None, 7),
    ],
)
def test_no_step_of_an_epoch_reads_a_value_on_the_host(monkeypatch, kind, optimizer, amp, warm):
    """Muon in fp16 read the overflow flag in every step. What warms up is computed in parts."""
    model = tiny_model()
    gradients = in_parts(2) if warm else whole
    step = Step(model, optimizer(model, **RATES), amp=amp, gradients=gradients)
    schedule = made = scheduled(kind, step)
    if warm:
        schedule = WarmUp(made, step.optimizer, steps=warm)
    to_meta(step)
    if kind != "plateau":
        rates = made.scheduler.base_lrs
        rates[:] = [rate.to("meta") if isinstance(rate, torch.Tensor) else rate for rate in rates]
    monkeypatch.setattr(loop, "read_metrics", over)
    monkeypatch.setattr(progress, "_to_host", lambda sums: (sums, Event()))
    bars = progress.ProgressLines(print, Plan(1, 22, 32, 1, 32, on_cpu=False))
    steps = []
    hooks = [bars.step, lambda run: steps.append(run.step)]
    with pytest.raises(Over):
        loop.fit(step, [batch(32)] * 22, [batch(32)], schedule, 1, on_step=hooks)
    assert steps == list(range(1, 23))


class Event:
    """One that nothing has reached yet."""

    def query(self) -> bool:
        return False


def scheduled(kind, step):
    if kind == "plateau":
        return Plateau(step.optimizer, patience=1, factor=0.1, threshold=0.0)
    return EveryStep(step.optimizer, kind=kind, lr=0.1, steps=30)


def test_the_control_a_step_that_reads_its_loss_raises():
    step = meta_step(tiny_model)
    with pytest.raises(RuntimeError, match="meta"):
        step(*batch())[0].item()


def test_a_chunk_of_the_resident_loader_reads_no_value_either(tiny_splits):
    loader = tiny_loader(tiny_splits[0])
    drawn = draws.draw(1, seed=0, count=256)
    meta = [torch.from_numpy(field).to("meta") for field in drawn]
    for name in ("_images", "_means", "_deviations"):
        setattr(loader, name, getattr(loader, name).to("meta"))
    with Launches() as counted:
        pixels = loader._pixels(*meta, pad=4)
    assert pixels.shape == (256, 32, 32, 3)
    pinned(len(counted.names), 31)
