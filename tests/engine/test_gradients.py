"""A step computed in parts: the gradients of the whole batch, with less in memory at a time."""

import weakref
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from torch import nn

from fasttrain.engine.gradients import in_parts, whole
from fasttrain.engine.step import Step
from fasttrain.optim.sgd import sgd
from fasttrain.parallel.distributed import Joined
from tests.engine.test_step import batch


def without_batchnorm():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).to(memory_format=torch.channels_last)


def a_step(gradients=whole, **options):
    model = without_batchnorm()
    optimizer = sgd(model, lr=0.1, momentum=0.9, weight_decay=5e-4)
    return Step(model, optimizer, gradients=gradients, **options)


def furthest(one, other):
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


OPTIONS = [
    {},
    {"label_smoothing": 0.1, "class_weights": torch.linspace(0.5, 1.5, 10)},
    {"amp": torch.bfloat16},
    {"amp": torch.float16},
]


@pytest.mark.parametrize("parts", [2, 5, 32, 99])
@pytest.mark.parametrize("options", OPTIONS)
def test_parts_of_a_batch_train_as_the_whole_to_a_millionth(parts, options):
    """Also in parts of unequal sizes, and in more than there are images."""
    plain, other = a_step(**options), a_step(in_parts(parts), **options)
    near = {"rtol": 1e-4, "atol": 1e-2 if "amp" in options else 1e-5}
    for seed in range(3):
        images, labels = batch(seed=seed)
        loss, logits = plain(images, labels)
        found = other(images, labels)
        torch.testing.assert_close(found, (loss, logits), **near)
    assert furthest(plain, other) < (5e-4 if "amp" in options else 1e-6)
    torch.testing.assert_close(plain.sums[:3], other.sums[:3], rtol=1e-3, atol=1e-5)
    control = a_step(in_parts(parts), **options)
    control(*batch()), control(*batch(seed=1))
    assert furthest(plain, control) > 1e-3


def test_a_label_out_of_range_is_still_reported_by_its_number():
    images, labels = batch()
    labels[-1] = 10
    with pytest.raises(Exception, match=r"label \(10\): the model has no such class"):
        a_step(in_parts(4))(images, labels)


@contextmanager
def activations(alive):
    """Note in `alive` the bytes that autograd keeps at each moment."""
    kept = weakref.WeakSet()

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor

    def pack(tensor):
        found = Kept(tensor)
        kept.add(found)
        alive.append(sum(each.tensor.nbytes for each in kept))
        return found

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda found: found.tensor):
        yield


def test_the_activations_of_one_part_are_kept_at_a_time():
    peaks = []
    for gradients in (whole, in_parts(4)):
        step, alive = a_step(gradients), []
        with activations(alive):
            step(*batch(64))
        peaks.append(max(alive))
    assert 3 < peaks[0] / peaks[1] < 4.1


@pytest.mark.parametrize("compiled", [False, True])
def test_of_several_processes_only_the_last_part_communicates(compiled, monkeypatch):
    """Counted in a group of one: without `no_sync`, the control, each part does."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: real(f, backend="eager", **options))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        plain, sent = a_step(), {}
        plain(*batch())
        for name in ("quiet", "control", "whole"):
            model, sent[name] = without_batchnorm(), []
            wrapped = Joined.wrap(None, model)

            def send(state, bucket, name=name):
                sent[name].append(bucket.index())
                done = torch.futures.Future()
                done.set_result(bucket.buffer())
                return done

            wrapped.register_comm_hook(None, send)
            made = {"quiet": in_parts(4, wrapped.no_sync), "control": in_parts(4), "whole": whole}
            optimizer = sgd(model, lr=0.1, momentum=0.9, weight_decay=5e-4)
            options = {"gradients": made[name], "compile": compiled}
            step = Step(model, optimizer, wrap=lambda _, of=wrapped: of, **options)
            step(*batch())
            if name != "control":
                assert furthest(step, plain) < 1e-6
        assert len(sent["quiet"]) == len(sent["whole"])
        assert len(sent["control"]) == 4 * len(sent["whole"])
    finally:
        dist.destroy_process_group()
