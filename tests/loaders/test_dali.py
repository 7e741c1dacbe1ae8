"""DALI alone: its absence, its types, what it prefetches, and what an interruption leaves."""

from __future__ import annotations

import gc
import sys
import weakref
from functools import partial

import numpy as np
import pytest
import torch

from fasttrain.data import Split
from fasttrain.errors import EnvironmentProblem
from fasttrain.loaders.dali import DaliLoader, available
from fasttrain.loaders.draws import draw

COUNT, CHUNKS = 704, 6
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
