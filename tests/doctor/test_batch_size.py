"""The largest batch that fits is found, to within a sixteenth, and all trials are undone."""

import io

import pytest
import torch
from rich.console import Console

from fasttrain.console.console import Display
from fasttrain.doctor import batch_size, doctor
from fasttrain.doctor.batch_size import extrapolate, fits, search
from fasttrain.machine import memory
from fasttrain.recipe.recipe import Recipe
from tests.conftest import tiny_step
from tests.engine.test_lr_finder import marks


@pytest.mark.parametrize("limit", [1, 2, 3, 17, 127, 128, 129, 300, 1000, 4095, 49_999, 50_000])
def test_the_largest_is_found_to_within_a_sixteenth_in_few_trials(limit):
    tried = []

    def tries(size):
        assert 1 <= size <= 50_000
        tried.append(size)
        return size <= limit

    found = search(tries, most=50_000, start=128)
    assert found <= limit <= found + max(1, found // 16)
    assert len(tried) == len(set(tried)) < 25


def test_where_all_or_nothing_fits_it_says_so():
    assert search(lambda size: True, most=50_000, start=128) >= 50_000 * 16 // 17
    assert search(lambda size: True, most=1, start=128) == 1
    assert search(lambda size: False, most=50_000, start=128) == 0


class Limited:
    """Makes a step's device run out of memory beyond a batch, half-way through the step."""

    def __init__(self, step, limit):
        self.limit = limit
        step.model.register_forward_pre_hook(self.count)
        step.optimizer.register_step_pre_hook(self.refuse)

    def count(self, model, args):
        self.size = len(args[0])

    def refuse(self, *args):
        if self.size > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_trials_that_fit_and_that_do_not_are_undone_bit_for_bit():
    step = tiny_step()
    limited = Limited(step, 40)
    before = marks(step)
    assert search(lambda size: fits(step, size), most=128, start=16) in (39, 40)
    assert limited.size > 0
    after = marks(step)
    assert before == after
    step(torch.zeros(8, 3, 32, 32), torch.zeros(8).long())
    assert marks(step) != after  # the control


def test_another_error_than_full_memory_is_not_taken_for_it():
    step = tiny_step()
    step.optimizer.register_step_pre_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fits(step, 4)


def test_a_cpus_largest_batch_is_the_straight_line_through_what_small_ones_took():
    always, an_image = 500 << 20, 10 << 20
    needs = [always + size * an_image for size in (8, 16, 32)]
    found = extrapolate((8, 16, 32), needs, available=10 << 30)
    assert found.batch_size == int((0.9 * (10 << 30) - always) / an_image)
    assert found.how.startswith("computed, not tried: batches of 8, 16, 32 took 10.0 MiB an image")
    assert extrapolate((8, 16, 32), needs, available=100 << 20).batch_size == 0
    assert extrapolate((8, 16, 32), needs, available=1 << 50).batch_size == 50_000
    assert extrapolate((8, 16, 32), [1, 1, 1], available=1 << 30).batch_size == 50_000


def test_the_doctor_finds_the_largest_batch_here(monkeypatch):
    monkeypatch.setattr(batch_size, "SMALL", (8, 32))
    text = io.StringIO()
    recipe = Recipe(device="cpu", loader="resident", amp="off")
    found = doctor.find_batch_size(recipe, display=Display(Console(file=text, width=200)))
    said = text.getvalue()
    assert said.startswith("largest batch on cpu, off, not compiled:\n  --batch-size ")
    an_image = float(said.partition("8, 32 took ")[2].split()[0])
    assert 2 < an_image < 60  # ResNet18's activations, float32, are about 10 MB an image
    assert 8 < found <= memory.available(torch.device("cpu")) / (an_image * 2**20)
