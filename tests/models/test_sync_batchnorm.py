"""BatchNorm over all processes: what one process computes on the whole batch, without a wait."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from fasttrain.models.sync_batchnorm import SyncBatchNorm2d, synchronised
from tests.taped import Launches

KINDS = {
    "usual": {},
    "no weights": {"affine": False},
    "no statistics": {"track_running_stats": False},
    "their mean": {"momentum": None},
}


@pytest.fixture
def group_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_one_computes_what_torchs_own_does(group_of_one, kind):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, **KINDS[kind]))
    ours = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, **KINDS[kind]))
    ours.load_state_dict(plain.state_dict())
    ours = synchronised(ours)
    assert type(ours[1]) is SyncBatchNorm2d
    assert list(ours.state_dict()) == list(plain.state_dict())
    for _ in range(3):
        images = torch.randn(8, 3, 6, 6)
        one, other = plain(images), ours(images)
        torch.testing.assert_close(one, other)
        for model, made in ((plain, one), (ours, other)):
            model.zero_grad()
            made.square().sum().backward()
    pairs = zip(plain.parameters(), ours.parameters(), strict=True)
    assert all(torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-3) for a, b in pairs)
    torch.testing.assert_close(plain.state_dict(), ours.state_dict())


def test_on_a_gpu_too_no_layer_makes_the_host_wait(monkeypatch):
    """torch's own indexes with a mask there, whose number of elements the host must read."""
    summed = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 8)
    monkeypatch.setattr(dist, "all_reduce", summed.append)
    layer = synchronised(nn.Sequential(nn.BatchNorm2d(4))).to("meta")
    images = torch.randn(8, 4, 6, 6, device="meta", requires_grad=True)
    with Launches() as counted:
        layer(images).square().sum().backward()
    assert len(summed) == 4, "a mean and a variance, forward and backward"
    assert len(counted.names) < 45
    with pytest.raises(RuntimeError):  # the control
        images[images > 0]


@pytest.mark.gpu
def test_on_a_gpu_it_computes_what_torchs_own_does_and_the_host_waits_for_nothing():
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        made = [nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).cuda() for _ in range(2)]
        made[1].load_state_dict(made[0].state_dict())
        made[1] = synchronised(made[1])
        images = torch.randn(16, 3, 12, 12, device="cuda")
        for mode in ("default", "error"):  # in the second step
            outputs = []
            torch.cuda.set_sync_debug_mode(mode)
            for model in made:
                with torch.autocast("cuda", torch.bfloat16):
                    outputs.append(model(images))
                outputs[-1].float().square().sum().backward()
            torch.cuda.set_sync_debug_mode("default")
            torch.testing.assert_close(*outputs, rtol=5e-2, atol=5e-2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        dist.destroy_process_group()
