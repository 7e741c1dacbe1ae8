"""A person's own arrays, draws and batches: right ones are taken, wrong ones named in one line."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest
import torch

from fasttrain import evaluate, find_lr, fit
from fasttrain.data import Split
from fasttrain.errors import DataError, EnvironmentProblem, UsageError
from fasttrain.loaders.dali import DaliLoader, available
from fasttrain.loaders.draws import draw, in_order
from fasttrain.loaders.resident import ResidentLoader
from tests.conftest import tiny_model, tiny_step

N = 12
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(N) % 10


@pytest.fixture(params=[ResidentLoader, DaliLoader])
def kind(request):
    if request.param is DaliLoader and available():
        pytest.skip(f"DALI: {available()}")
    return request.param


def make(kind, images=IMAGES, labels=LABELS, draws=None, **options):
    options = {"batch_size": 4, "device": "cpu", "hole": 8, "drop_last": True, **options}
    options = {"mean": (0.5,) * 3, "std": (0.25,) * 3, **options}
    return kind(Split(images, labels), draws or partial(draw, seed=0, count=N), **options)


BAD_ARRAYS = {
    "not square": ({"images": IMAGES.repeat(2, 1)}, "uint8 (12, 64, 32, 3)"),
    "no pixels": ({"images": IMAGES[:, :0, :0]}, "uint8 (12, 0, 0, 3)"),
    "transparent": ({"images": IMAGES[..., [0, 1, 2, 2]]}, "uint8 (12, 32, 32, 4)"),
    "planes first": ({"images": IMAGES.transpose(0, 3, 1, 2)}, "images (uint8 (12, 3, 32, 32)"),
    "grey": ({"images": IMAGES[..., 0]}, "images (uint8 (12, 32, 32)"),
    "floats in 0..1": ({"images": IMAGES / 255}, "images (float64 (12, 32, 32, 3), 0 to 1)"),
    "wider whole numbers": ({"images": IMAGES.astype(np.int64)}, "images (int64 (12, 32, 32, 3)"),
    "fractional labels": ({"labels": LABELS + 0.5}, "labels (float64 (12,), 0.5 to 9.5)"),
    "one-hot labels": (
        {"labels": np.eye(10, dtype=int)[LABELS]},
        "labels (int64 (12, 10), 0 to 1)",
    ),
    "a label too few": ({"labels": LABELS[:-1]}, "labels (int64 (11,)"),
    "no class": ({"labels": LABELS - 1}, "labels (int64 (12,), -1 to 8)"),
    "words": ({"labels": np.array(["cat"] * N)}, "labels (<U3 (12,))"),
    "ragged": ({"labels": [[1], [1, 2]]}, "split (Split): not two arrays"),
}
BAD_SETTINGS = {
    "means of bytes": ({"mean": (125.3, 123.0, 113.9)}, "mean ((125.3, 123.0, 113.9))"),
    "one mean": ({"mean": 0.5}, "mean (0.5)"),
    "no deviation": ({"std": (0.2, 0.0, 0.2)}, "std ((0.2, 0.0, 0.2))"),
    "nan": ({"std": (0.2, float("nan"), 0.2)}, "std ((0.2, nan, 0.2))"),
    "batch of -1": ({"batch_size": -1}, "batch size (-1): must be a whole number from 1"),
    "batch of 0": ({"batch_size": 0}, "batch size (0)"),
    "half a batch": ({"batch_size": 2.5}, "batch size (2.5)"),
    "a wide hole": ({"hole": 40}, "hole (40): must be a whole number from 0 to 32"),
    "no chunk": ({"chunk": 0}, "chunk (0)"),
    "bytes out": ({"dtype": torch.uint8}, "dtype (torch.uint8)"),
}
BAD_DRAWS = {
    "of more images": (
        partial(draw, seed=0, count=N + 1),
        "order of epoch 1 (int64 (13,), 0 to 12)",
    ),
    "a plain tuple": (lambda epoch: tuple(in_order(N)), "draws (tuple)"),
    "flips as numbers": (
        lambda epoch: in_order(N)._replace(flip=np.zeros(N)),
        "flip of epoch 1 (float64 (12,), 0 to 0)",
    ),
    "too few crops": (
        lambda epoch: in_order(N)._replace(crop=np.zeros((3, 2), int)),
        "crop of epoch 1 (int64 (3, 2)",
    ),
    "before the first": (
        lambda epoch: in_order(N)._replace(order=np.arange(N) - 1),
        "order of epoch 1 (int64 (12,), -1 to 10)",
    ),
}


def refused(said, call, *arguments, **options):
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("wrong", "said"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_arrays_that_are_no_split_are_named_by_both_loaders(kind, wrong, said):
    refused(said, make, kind, **wrong)


@pytest.mark.parametrize(("wrong", "said"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_settings_that_make_no_batch_are_named_by_both_loaders(kind, wrong, said):
    refused(said, make, kind, **wrong)


@pytest.mark.parametrize(("draws", "said"), BAD_DRAWS.values(), ids=BAD_DRAWS)
def test_a_draw_that_is_not_of_this_split_is_named(kind, draws, said):
    refused(said, make, kind, draws=draws)


def test_a_later_draw_is_checked_too():
    later = make(
        ResidentLoader,
        draws=lambda epoch: in_order(N) if epoch == 1 else in_order(N + 5),
    )
    assert len(list(later)) == 3
    refused("order of epoch 2 (int64 (17,), 0 to 16)", list, later)
    shorter = make(ResidentLoader, draws=lambda epoch: in_order(N // epoch))
    assert len(list(shorter)) == 3
    refused("draws (epoch 2): an epoch of 6 images", list, shorter)


def test_a_border_is_mirrored_no_further_than_the_image_goes(kind):
    far = lambda epoch: in_order(N)._replace(crop=np.full((N, 2), 32))  # noqa: E731
    refused("crop of epoch 1", make, kind, draws=far, reflect=True)
    assert len(list(make(kind, draws=far))) == 3  # the control: all black


@pytest.mark.parametrize("device", ["gpu", "meta", "mps", ""])
def test_a_device_that_is_none_is_named(device):
    with pytest.raises(EnvironmentProblem, match=re.escape(f"--device ('{device}')")):
        make(ResidentLoader, device=device)


def test_whatever_says_the_same_gives_the_same_batches(kind):
    plain = list(make(kind))
    other = make(
        kind,
        torch.from_numpy(IMAGES.copy()),
        LABELS.astype(np.uint8).tolist(),
        mean=np.full(3, 0.5),
        std=torch.full((3,), 0.25, dtype=torch.float64),
        batch_size=np.int32(4),
        hole=torch.tensor(8),
    )
    for one, two in zip(plain, other, strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.labels, two.labels)


# --- batches of anybody's own ---------------------------------------------------------------------


class Still:
    def after_step(self):
        pass

    def after_epoch(self, test_accuracy):
        pass


def batch(size=8, **changes):
    images = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made = {"images": images, "labels": torch.arange(size) % 10, **changes}
    return made["images"], made["labels"]


GOOD_IMAGES, GOOD_LABELS = batch()
BAD_BATCHES = {
    "bytes": (
        batch(images=(GOOD_IMAGES * 10).to(torch.uint8)),
        "images of the first batch (uint8 ",
    ),
    "doubles": (batch(images=GOOD_IMAGES.double()), "(float64 (8, 3, 32, 32), "),
    "halves without amp": (batch(images=GOOD_IMAGES.half()), "(float16 (8, 3, 32, 32), "),
    "channels last": (batch(images=GOOD_IMAGES.permute(0, 2, 3, 1)), "(float32 (8, 32, 32, 3), "),
    "one image": (batch(images=GOOD_IMAGES[0]), "(float32 (3, 32, 32), "),
    "one-hot": (
        batch(labels=torch.eye(10)[GOOD_LABELS]),
        "labels of the first batch (float32 (8, 10)",
    ),
    "narrow labels": (
        batch(labels=GOOD_LABELS.int()),
        "labels of the first batch (int32 (8,), 0 to 7)",
    ),
    "a column": (batch(labels=GOOD_LABELS[:, None]), "(int64 (8, 1), 0 to 7): must be int64 (8,)"),
    "a label too few": (batch(labels=GOOD_LABELS[1:]), "(int64 (7,), 1 to 7): must be int64 (8,)"),
    "ignored labels": (batch(labels=GOOD_LABELS - 100), "(int64 (8,), -100 to -93)"),
    "another device": (batch(images=GOOD_IMAGES.to("meta")), "(meta): the model is on cpu"),
    "arrays": ((GOOD_IMAGES.numpy(), GOOD_LABELS.numpy()), "first batch (ndarray, ndarray)"),
    "a third part": ((*batch(), GOOD_LABELS), "first batch (Tensor, Tensor, Tensor)"),
    "a dict": ({"image": GOOD_IMAGES}, "first batch (dict)"),
    "images alone": (GOOD_IMAGES, "first batch (Tensor)"),
    "a class too many": (batch(labels=GOOD_LABELS + 40), "label (40): the model has no such class"),
}
CALLS = {
    "fit": lambda step, batches: fit(step, batches, [batch()], Still(), 1),
    "fit's test": lambda step, batches: fit(step, [batch()], batches, Still(), 1),
    "evaluate": evaluate,
    "find_lr": lambda step, batches: find_lr(step, batches, steps=5),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(("wrong", "said"), BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_a_first_batch_that_is_none_is_named_by_all_three(call, wrong, said):
    refused(said, call, tiny_step(), [wrong])


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_cannot_be_iterated_is_named(call):
    refused("(int): cannot be iterated", call, tiny_step(), 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_with_autocast_any_float_is_taken(dtype):
    images, labels = batch()
    step = tiny_step(amp=torch.bfloat16)
    assert fit(step, [(images.to(dtype), labels)], [[images, labels]], Still(), 1)


# --- an epoch of no images ------------------------------------------------------------------------


class Steps(Still):
    calls = 0

    def after_epoch(self, test_accuracy):
        self.calls += 1


ONCE = r"a generator or an iterator can be read once"


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ([], [batch()], r"epoch 1, training \(0 batches\): an epoch of no images\. Give"),
        ([batch()], [], r"epoch 1, evaluation \(0 batches\): an epoch of no images\. Give"),
        (iter([batch()] * 3), [batch()], rf"epoch 2, training \(0 batches\): .*{ONCE}"),
        ([batch()], (b for b in [batch()]), rf"epoch 2, evaluation \(0 batches\): .*{ONCE}"),
        ([batch(0)], [batch()], r"epoch 1, training \(0 images in its first batch\)"),
    ],
)
def test_an_epoch_of_no_images_never_counts(train, test, said):
    schedule, step = Steps(), tiny_step()
    with pytest.raises(DataError, match=said) as caught:
        fit(step, train, test, schedule, 4)
    assert "\n" not in str(caught.value)
    assert schedule.calls == (1 if "epoch 2" in said else 0)


@pytest.mark.parametrize("empty", [[], iter([]), (b for b in [])])
def test_an_evaluation_of_no_images_has_no_accuracy(empty):
    with pytest.raises(DataError, match=r"evaluation \(0 batches\): an epoch of no images"):
        evaluate(tiny_step(), empty)


def test_the_range_test_says_that_a_generator_has_been_read():
    with pytest.raises(DataError, match=rf"range test \(0 batches\): .*{ONCE}"):
        find_lr(tiny_step(), iter([batch()] * 3), steps=10)
    assert len(find_lr(tiny_step(), iter([batch()] * 10), steps=10).lrs) == 10  # the control


def test_a_list_is_read_in_every_epoch_and_a_run_may_go_on_at_an_epochs_end():
    assert len(fit(tiny_step(), [batch()], [batch()], Still(), 3)) == 3
    from fasttrain.engine import metrics
    from fasttrain.engine.state import Run

    step, run = tiny_step(), Run(step=1, sums=metrics.zeros(torch.device("cpu")))
    loss, logits = step(*batch())
    metrics.record_step(run.sums, step.lr)
    metrics.update(run.sums, loss, logits, batch()[1])
    rows = fit(step, [], [batch()], Still(), 1, run=run)  # whose loader is at the epoch's end
    assert rows[0].train_loss == pytest.approx(float(loss))


def test_checking_a_batch_changes_no_bit_of_the_training():
    one, two = tiny_step(), tiny_step()
    fit(one, [batch()] * 3, [batch()], Still(), 1)
    two.model.train()
    for _ in range(3):
        two(*batch())
    assert all(map(torch.equal, one.model.parameters(), two.model.parameters()))
    assert tiny_model(1)[0].weight.ne(one.model[0].weight).any()
