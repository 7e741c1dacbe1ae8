"""DALI alone: its absence, its types, what it prefetches, and what an interruption leaves."""

from __future__ import annotations

import gc
import sys
import weakref
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fasttrain.data import Split
from fasttrain.errors import EnvironmentProblem
from fasttrain.loaders import dali
from fasttrain.loaders.dali import DaliLoader, available
from fasttrain.loaders.draws import draw

COUNT, CHUNKS = 704, 6
CPU = torch.device("cpu")
needs_dali = pytest.mark.skipif(available() is not None, reason=f"DALI: {available()}")


def make(**options) -> DaliLoader:
    """Eleven batches of 64 in six chunks; an image's pixels are its index, its label too."""
    index = np.arange(COUNT)
    images = np.empty((COUNT, 32, 32, 3), np.uint8)
    images[..., 0], images[..., 1:] = (
        (index // 256)[:, None, None],
        (index % 256)[:, None, None, None],
    )
    options = {"batch_size": 64, "device": "cpu", "hole": 0, "chunk": 128, **options}
    draws = partial(draw, seed=0, count=COUNT, pad=0)
    grey = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
    return DaliLoader(Split(images, index), draws, drop_last=True, **grey, **options)


def assert_images_match_labels(batches) -> None:
    """The index written into the pixels is the label."""
    for images, labels in batches:
        written = 256 * images[:, 0, 0, 0] + images[:, 1, 0, 0]
        assert torch.equal(written.round().long(), labels)


def test_without_dali_the_reason_is_given_and_a_loader_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    assert "nvidia.dali" in available()
    assert "\n" not in available()
    with pytest.raises(EnvironmentProblem, match="pip install nvidia-dali-cuda130"):
        make()


@needs_dali
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_gpu_that_dali_cannot_use_is_an_environment_problem_in_one_line():
    with pytest.raises(EnvironmentProblem, match="use --loader resident") as problem:
        make(device="cuda:0")
    assert "\n" not in str(problem.value)


@needs_dali
def test_bfloat16_which_dali_lacks_becomes_float32():
    assert next(iter(make(dtype=torch.bfloat16))).images.dtype == torch.float32


@needs_dali
def test_images_and_labels_stay_together_over_epochs_and_after_a_break():
    batches = make()
    assert_images_match_labels(batches)
    next(iter(batches))
    assert_images_match_labels(batches)


@needs_dali
def test_at_the_end_of_an_epoch_the_next_one_is_already_under_way():
    batches = make()
    list(batches)
    feeds = [lane.feed for lane in batches._lanes]
    assert [list(feed.fed) for feed in feeds] == [[CHUNKS], [CHUNKS + 1]]
    assert [feed.next for feed in feeds] == [CHUNKS + 2, CHUNKS + 3]


def counted_runs(batches: DaliLoader) -> list[int]:
    """Grows by an item each time a pipeline runs."""
    runs: list[int] = []
    for lane in batches._lanes:
        lane.pipeline.run = counted(lane.pipeline.run, runs)
    return runs


def counted(run, runs: list[int]):
    return lambda *args: (runs.append(1), run(*args))[1]


@needs_dali
def test_an_epoch_runs_the_pipeline_once_a_chunk():
    batches = make()
    runs = counted_runs(batches)
    assert_images_match_labels(batches)
    assert_images_match_labels(batches)
    assert len(runs) == 2 * CHUNKS


@needs_dali
def test_after_a_seek_only_what_was_in_flight_is_wasted():
    batches = make()
    reading = iter(batches)
    for _ in range(3):  # the third is of the second pipeline's first chunk
        next(reading)
    runs = counted_runs(batches)
    batches.seek(3, 4)
    assert_images_match_labels(batches)
    # The four chunks from step 4 on, and in each pipeline the one that was under way.
    assert len(runs) == 4 + len(batches._lanes)


@needs_dali
def test_an_interruption_while_waiting_for_dali_does_not_shift_images_against_labels():
    batches = make()
    pipeline = batches._lanes[1].pipeline  # which the third batch comes from
    run = pipeline.run

    def interrupted(*args):
        run(*args)
        raise KeyboardInterrupt

    reading = iter(batches)
    next(reading), next(reading)
    pipeline.run = interrupted
    with pytest.raises(KeyboardInterrupt):
        next(reading)
    assert_images_match_labels(batches)


@needs_dali
def test_the_pixels_are_dalis_own_buffer():
    batches, given = make(), []
    lane = batches._lanes[0]
    read = lane.read
    lane.read = lambda *args: given.append(read(*args)) or given[-1]
    images = next(iter(batches)).images
    [dalis] = given
    assert images.data_ptr() == dalis.as_tensor().data_ptr()


class Tensor:
    """Stands for a tensor of DALI on a GPU: records the copy that is made of it."""

    def __init__(self, dtype):
        self.dtype, self.copied = dtype, []

    def shape(self):
        return [128, 32, 32, 3]

    def copy_to_external(self, *args, **options):
        self.copied.append((args[0].value, *args[1:], options))

    def __dlpack__(self, *args, **options):
        raise AssertionError("its buffer is handed over, and freed in a thread of DALI's")


@needs_dali
@pytest.mark.parametrize("dtype", ["FLOAT", "FLOAT16"])
def test_on_a_gpu_the_pixels_are_copied_on_torchs_own_stream(monkeypatch, dtype):
    from nvidia.dali.plugin import pytorch
    from nvidia.dali.types import DALIDataType

    batches, streams = make(), []
    given = Tensor(getattr(DALIDataType, dtype))
    feed = pytorch.feed_ndarray

    def recorded(tensor, into, cuda_stream):
        streams.append(cuda_stream)
        return feed(tensor, into)

    monkeypatch.setattr(pytorch, "feed_ndarray", recorded)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"torch's on {device}")
    copied = dali._copied
    monkeypatch.setattr(dali, "_copied", lambda pixels, stream, device: copied(pixels, stream, CPU))
    batches.device = torch.device("cuda", 0)
    lane = batches._lanes[0]
    lane.read = lambda chunk, stream: (
        streams.append(stream) or SimpleNamespace(as_tensor=lambda: given)
    )
    pixels = batches._read(0)
    assert streams == ["torch's on cuda:0"] * 2
    assert given.copied == [(pixels.data_ptr(), {})]
    assert pixels.dtype == {"FLOAT": torch.float32, "FLOAT16": torch.float16}[dtype]
    assert tuple(pixels.shape) == (128, 32, 32, 3)


@needs_dali
@pytest.mark.parametrize(("hole", "dtype"), [(8, "FLOAT"), (0, "FLOAT16")])
def test_a_hole_is_cut_in_float_since_a_gpu_cannot_in_half(monkeypatch, hole, dtype):
    from nvidia.dali import fn
    from nvidia.dali.types import DALIDataType

    normalise, seen = fn.crop_mirror_normalize, []

    def recorded(*args, **options):
        seen.append(options["dtype"])
        return normalise(*args, **options)

    with monkeypatch.context() as patches:
        patches.setattr(fn, "crop_mirror_normalize", recorded)
        batches = make(dtype=torch.float16, hole=hole)
    assert set(seen) == {getattr(DALIDataType, dtype)}
    assert next(iter(batches)).images.dtype == torch.float16


@needs_dali
def test_a_loader_that_is_left_is_freed_without_the_garbage_collector():
    gc.disable()
    try:
        batches = make()
        next(iter(batches))
        left = weakref.ref(batches)
        del batches
        assert left() is None
    finally:
        gc.enable()
