import math
import os

import pytest
import torch
from torch.nn import functional as F

from fasttrain.engine.build import set_backends
from fasttrain.engine.evaluation import evaluate
from fasttrain.engine.loop import fit
from fasttrain.engine.state import Run
from fasttrain.errors import Diverged
from tests.conftest import tiny_loader, tiny_step


class Still:
    """A schedule that records when it is stepped."""

    def __init__(self):
        self.calls = []

    def after_step(self):
        self.calls.append("step")

    def after_epoch(self, test_accuracy):
        self.calls.append(test_accuracy)


def test_the_rows_are_what_a_plain_loop_computes(tiny_splits):
    train, test = tiny_splits
    step, still = tiny_step(), Still()
    rows = fit(step, tiny_loader(train), tiny_loader(test, training=False), still, 2)
    twin = tiny_step()
    loader = tiny_loader(train)
    for row in rows:
        twin.model.train()
        losses, correct = [], 0
        for images, labels in loader:
            loss, logits = twin(images, labels)
            losses.append(float(loss))
            correct += int((logits.argmax(1) == labels).sum())
        twin.model.eval()
        with torch.no_grad():
            images, labels = zip(*tiny_loader(test, training=False), strict=True)
            logits = twin.model(torch.cat(images))
        labels = torch.cat(labels)
        assert row.train_loss == pytest.approx(sum(losses) / len(losses), rel=1e-6)
        assert row.train_accuracy == correct / (len(losses) * 32)
        assert row.test_loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-4)
        assert row.test_accuracy == pytest.approx(
            float((logits.argmax(1) == labels).float().mean())
        )
        assert row.seconds > 0
        assert row.images_per_second == pytest.approx(len(losses) * 32 / row.seconds)
        assert 0 < row.data_wait_seconds < row.seconds
    assert still.calls == [*["step"] * 16, rows[0].test_accuracy, *["step"] * 16, rows[1][5]]
    assert [row.epoch for row in rows] == [1, 2]


def test_hooks_see_each_step_each_test_batch_and_each_epoch_in_order(tiny_splits):
    train, test = (type(s)(s.images[:96], s.labels[:96]) for s in tiny_splits)
    seen = []
    fit(
        tiny_step(),
        tiny_loader(train),
        tiny_loader(test, training=False),
        Still(),
        2,
        on_step=[lambda run: seen.append((run.phase, run.epoch, run.step))],
        on_epoch=[lambda run: seen.append(("epoch", run.epoch, len(run.history)))],
    )
    one = [("train", 0, 1), ("train", 0, 2), ("train", 0, 3), *[("test", 0, 3)] * 3]
    two = [(phase, 1, step) for phase, _, step in one]
    assert seen == [*one, ("epoch", 1, 1), *two, ("epoch", 2, 2)]


def test_until_ends_the_training_between_epochs(tiny_splits):
    train, test = tiny_splits
    rows = fit(
        tiny_step(),
        tiny_loader(train),
        tiny_loader(test, training=False),
        Still(),
        5,
        until=lambda run: run.epoch == 2,
    )
    assert len(rows) == 2


def test_the_recorded_rate_is_the_one_the_epoch_was_trained_with(tiny_splits):
    train, test = tiny_splits
    step = tiny_step(lr=0.05)

    class Halving(Still):
        def after_epoch(self, test_accuracy):
            step.lr = float(step.lr) / 2

    rows = fit(step, tiny_loader(train), tiny_loader(test, training=False), Halving(), 3)
    assert [row.lr for row in rows] == pytest.approx([0.05, 0.025, 0.0125])


def test_a_loss_that_is_not_finite_ends_the_epoch_before_it_counts(tiny_splits):
    train, test = tiny_splits
    step, run = tiny_step(lr=1e30), Run()
    with pytest.raises(Diverged, match=r"not finite in epoch 1, at step 2, at lr 1e\+30"):
        fit(step, tiny_loader(train), tiny_loader(test, training=False), Still(), 3, run=run)
    assert not run.history


def test_evaluation_counts_every_image_and_leaves_batchnorm_alone(tiny_splits):
    train, _ = tiny_splits
    split = type(train)(train.images[:70], train.labels[:70])
    step = tiny_step()
    buffers = [b.clone() for b in step.model.buffers()]
    loss, accuracy = evaluate(step, tiny_loader(split, training=False))
    assert all(map(torch.equal, step.model.buffers(), buffers))
    assert round(accuracy * 70) == pytest.approx(accuracy * 70, abs=1e-9)
    one_batch, _ = evaluate(step, tiny_loader(split, batch_size=70, training=False))
    assert loss == pytest.approx(one_batch, rel=1e-5)
    assert math.isfinite(loss)


@pytest.mark.parametrize("value", [True, False])
def test_deterministic_sets_what_torch_asks_for_before_a_product_on_a_gpu(monkeypatch, value):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is undone
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        set_backends(seed=0, deterministic=value)
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if value else None)
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        set_backends(seed=0, deterministic=value)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8", "the user's own"
    finally:
        set_backends(seed=0, deterministic=False)
