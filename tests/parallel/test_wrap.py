"""The module that averages gradients over processes, in a group of one, on a CPU and on a GPU."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist

from fasttrain.models.resnet import ResNet18
from fasttrain.parallel.distributed import Joined

KINDS = {"cpu": "gloo", "cuda": "nccl"}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_gradients_have_the_strides_of_their_buckets_and_nothing_is_warned_of(device):
    """torch warns of a copy where they differ; a 1x1 filter in channels_last may have either."""
    dist.init_process_group(KINDS[device], store=dist.HashStore(), rank=0, world_size=1)
    torch.set_warn_always(True)  # torch says most things once a process
    try:
        with torch.device("meta"):
            model = ResNet18().to(memory_format=torch.channels_last)
        model = model.to_empty(device=device)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.01)
        wrapped = Joined.wrap(None, model)
        images = torch.randn(2, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            for _ in range(2):
                with torch.autocast(device, torch.bfloat16):
                    wrapped(images).sum().backward()
                assert all(w.grad.stride() == w.stride() for w in model.parameters())
                model.zero_grad(set_to_none=True)
        assert [str(warning.message) for warning in given] == []
    finally:
        torch.set_warn_always(False)
        dist.destroy_process_group()
