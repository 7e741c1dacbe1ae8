"""A copy of a state is exact, shares no memory, and comes from a GPU in one piece."""

from __future__ import annotations

import io
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.utils._pytree import tree_leaves

from fasttrain.engine.step import Step
from fasttrain.optim.sgd import sgd
from fasttrain.storage import checkpoint, host_copy
from fasttrain.storage.host_copy import HostCopies, on_host, packed, unpacked
from tests.conftest import tiny_model, tiny_step
from tests.storage.test_checkpoint import same
from tests.taped import Launches

TENSORS = {
    "channels_last": torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
    "a number": torch.tensor(0.1),
    "a counter": torch.tensor(7),
    "sums": torch.randn(12, dtype=torch.float64),
    "half": torch.randn(3, 3, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False, True]),
    "none": torch.zeros(0, 4),
    "with gaps": torch.randn(6, 6)[:, ::2],
    "a part": torch.randn(6, 6)[2:4],
    "bytes": torch.arange(5, dtype=torch.uint8),
}


def addresses(tree):
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def test_a_copy_shares_no_memory_and_keeps_layout_types_and_versions():
    state = tiny_step().state_dict()
    copied = on_host({**state, "list": [torch.zeros(2)], "pair": (torch.zeros(2), 1)})
    assert same(copied["model"], state["model"])
    assert copied["model"]._metadata == state["model"]._metadata
    assert type(copied["pair"]) is tuple
    assert addresses(copied).isdisjoint(addresses(state))


def test_tensors_are_packed_in_one_launch_and_come_out_as_they_were():
    given = sorted(TENSORS.values(), key=torch.Tensor.element_size, reverse=True)
    with Launches() as counted:
        flat = packed(given)
    assert counted.names == ["clone", "cat"], "the clone is of the tensor with gaps"
    found = unpacked(flat, given)
    for one, other in zip(given, found, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
        assert other.data_ptr() % other.element_size() == 0
        dense = torch.ops.aten.is_non_overlapping_and_dense(one)
        assert other.stride() == (one.stride() if dense else one.contiguous().stride())
        assert other.untyped_storage().nbytes() == one.nbytes, "torch.save saves whole storages"


class Device:
    """Stands for a GPU: its stream and events record what is asked of them."""

    def __init__(self, patches, *, is_on_gpu=lambda tensor: True):
        self.calls = []
        patches.setattr(host_copy, "_is_on_gpu", is_on_gpu)
        patches.setattr(host_copy, "_pinned", self.pinned)
        patches.setattr(torch.cuda, "Stream", lambda device: self.stream())
        patches.setattr(torch.cuda, "Event", lambda blocking=False: self.event())
        patches.setattr(torch.cuda, "stream", lambda stream: nullcontext())

    def pinned(self, size):
        self.calls.append("pinned")
        return torch.zeros(size, dtype=torch.uint8)

    def stream(self):
        return SimpleNamespace(wait_event=lambda event: self.calls.append("the stream waits"))

    def event(self):
        return SimpleNamespace(
            record=lambda: self.calls.append("recorded"),
            synchronize=lambda: self.calls.append("the thread waits"),
        )


def test_from_a_gpu_the_thread_waits_and_the_loop_does_not(monkeypatch):
    device = Device(monkeypatch)
    step, copies = tiny_step(), HostCopies()
    step(torch.randn(4, 3, 32, 32), torch.arange(4))
    expected = on_host(step.state_dict())
    copied = copies.begin(step.state_dict())
    assert device.calls == ["recorded"], "all that the loop does is to launch"
    step(torch.randn(4, 3, 32, 32), torch.arange(4))  # which changes every weight
    found = copied()
    assert device.calls[1:] == ["pinned", "the stream waits", "recorded", "the thread waits"]
    assert same(found, expected)
    assert found["model"]._metadata == expected["model"]._metadata
    assert not same(found, step.state_dict())


@pytest.mark.gpu
def test_on_a_gpu_the_copy_is_that_of_the_moment_and_the_host_does_not_wait():
    model = tiny_model().cuda()
    step, copies = Step(model, sgd(model, lr=0.1, momentum=0.9, weight_decay=5e-4)), HostCopies()
    images, labels = torch.randn(4, 3, 32, 32).cuda(), torch.arange(4).cuda()
    for _ in range(2):
        step(images, labels)
        expected, busy = on_host(step.state_dict()), torch.randn(4096, 4096, device="cuda")
        for _ in range(50):
            busy = (busy @ busy).clamp(-1, 1)
        torch.cuda.set_sync_debug_mode("error")
        try:
            copied = copies.begin(step.state_dict())
            for _ in range(3):
                step(images, labels)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found = copied()
        assert same(found, expected)
        assert all(not tensor.is_cuda for tensor in host_copy._tensors(found))
        assert not same(found, on_host(step.state_dict()))


def test_the_pinned_buffer_is_used_again_unless_it_is_too_small(monkeypatch):
    device, copies = Device(monkeypatch), HostCopies()
    for size in (10, 5, 10, 20):
        tree = {"weights": torch.full((size,), float(size))}
        assert same(copies.begin(tree)(), tree)
    assert device.calls.count("pinned") == 2


def test_what_is_on_the_host_already_is_copied_at_once(monkeypatch):
    Device(monkeypatch, is_on_gpu=lambda tensor: tensor.numel() > 3)
    tree = {"few": torch.zeros(2), "many": torch.zeros(5), "again": [torch.ones(5), 3, "x"]}
    before = on_host(tree)
    copied = HostCopies().begin(tree)
    tree["few"].fill_(1)
    tree["many"].fill_(1)
    assert same(copied(), before)


def test_a_state_that_came_in_one_piece_is_saved_byte_for_byte_like_any_other(
    monkeypatch, tmp_path
):
    state, files = tiny_step().state_dict(), []
    for name in ("plain", "gpu"):
        if name == "gpu":
            Device(monkeypatch)
        checkpoint.save(tmp_path / f"{name}.pt", HostCopies().begin(state)())
        files.append((tmp_path / f"{name}.pt").read_bytes())
    assert same(*(torch.load(io.BytesIO(each), weights_only=True) for each in files))
    assert len(files[0]) == pytest.approx(len(files[1]), abs=4096)
