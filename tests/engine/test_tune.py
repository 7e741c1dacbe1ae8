"""Candidates are timed and compared; what loses, raises or computes something else is not taken."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch.utils._pytree import tree_map

from fasttrain.engine import loader_times, same_numbers, trial, turns
from fasttrain.engine.candidates import Row, Settings, choose, may_pay, space, stages, why
from fasttrain.engine.graphs import GraphedStep
from fasttrain.engine.loader_times import LoaderTimes, fastest
from fasttrain.engine.trial import Trial, limit, too_short
from fasttrain.engine.tune import Measured, parsed, plain, tune
from fasttrain.engine.turns import Turns
from fasttrain.machine import auto, remembered
from fasttrain.machine.auto import Choice
from fasttrain.models.resnet import ResNet18
from fasttrain.optim.sgd import sgd
from fasttrain.recipe.recipe import Recipe
from tests.conftest import tiny_loader, tiny_model, tiny_step
from tests.taped import Tape

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
FLOAT32, BF16 = Settings(), Settings("bf16")
FAST, SLOW = 0.002, 0.02  # seconds a step


class Clock:
    """Time that passes only where a test says so: other programs cannot change what is chosen."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


clock = Clock()


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    for module in (turns, loader_times):
        monkeypatch.setattr(module, "perf_counter", clock)


class Sleeper:
    """A step that takes longer: all else is that of the step it was made of."""

    def __init__(self, step, seconds, then=lambda step: None):
        vars(self).update(vars(step))
        self._step, self._seconds, self._then = step, seconds, then

    lr = property(lambda self: self._step.lr, lambda self, value: setattr(self._step, "lr", value))

    def __call__(self, images, labels):
        clock.sleep(self._seconds)
        found = self._step(images, labels)
        self._then(self._step)
        return found


def spoiled(step):
    with torch.no_grad():
        for weight in step.model.parameters():
            weight.mul_(-1)


@pytest.fixture
def made(tiny_splits):
    """A function that makes a Trial of float32 and bf16 on one tiny network."""

    def make(plant=None, *, words=("off", "bf16"), rule=BF16, **options):
        first = tiny_step()
        loader = tiny_loader(tiny_splits[0], batch_size=8)

        def step(settings):
            found = tiny_step(amp=AMP[settings.amp])
            found.model, found.optimizer = first.model, first.optimizer
            found._wrapped = first.model
            found = found if plant is None else plant(settings, found)
            return found if isinstance(found, Sleeper) else Sleeper(found, FAST)

        names = {name: (word,) for name, word in rule._asdict().items()} | {"amp": words}
        given = {"loaders": ("resident",), "steps": 10_000, "facts": lambda: {"a test": 1}}
        found = Trial(
            names,
            rule,
            step,
            make_loader=lambda kind: loader,
            device=CPU,
            **{**given, **options},
        )
        return found, first, loader

    return make


def slow(which, seconds=SLOW):
    """A plant: that precision takes longer."""

    return lambda each, step: Sleeper(step, seconds) if each.amp == which else step


@pytest.mark.parametrize("which", ["off", "bf16"])
def test_a_planted_slow_path_is_never_chosen_and_the_choice_is_said_with_numbers(made, which):
    found = tune(made(slow(which))[0])
    assert found.settings.amp != which
    (why,) = found.whys.values()
    assert why.startswith("measured: ")
    assert " ms a step against " in why
    assert why.endswith("in float32" if which == "off" else "in bf16")


def timings(found):
    return {row["amp"]: row["n"] for row in found.table["steps"]}


def test_a_clearly_slower_candidate_gets_few_turns_and_one_if_they_are_dear(made):
    assert timings(tune(made(slow("off"))[0])) == {"off": trial.FEWEST, "bf16": trial.FEWEST}
    dear = tune(made(slow("off", 1.0))[0])
    assert timings(dear)["off"] == 1
    assert dear.settings == BF16


@pytest.mark.parametrize("at", [2, 3, 4])
def test_one_timing_that_another_program_made_long_changes_nothing(made, at):
    def plant(each, step):
        calls = iter(range(99))
        spike = lambda step: clock.sleep(20 * FAST * (next(calls) == at - 1))  # noqa: E731
        return Sleeper(step, FAST / 2, spike) if each.amp == "bf16" else step

    assert tune(made(plant)[0]).settings == BF16


def test_what_raises_is_dropped_with_its_reason_and_the_state_is_as_before(made):
    def raising(each, step):
        def broken(*batch):
            step(*batch)
            raise RuntimeError("could not create a primitive\nwith details")

        step.made = broken
        return Sleeper(step, 0, lambda step: 1 / 0) if each.amp == "bf16" else step

    found = tune(made(raising)[0])
    assert found.settings == FLOAT32
    assert found.whys["amp"].endswith("; in bf16 dropped: ZeroDivisionError: division by zero")


def test_out_of_memory_drops_a_candidate_at_its_making_too(made):
    def full(each, step):
        if each.amp == "bf16":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return step

    found = tune(made(full)[0])
    assert found.settings == FLOAT32
    assert "in bf16 dropped: OutOfMemoryError: CUDA out of memory" in found.whys["amp"]


def test_other_numbers_are_refused_with_what_differs(made):
    plant = lambda each, step: Sleeper(step, 0, spoiled) if each.amp == "bf16" else step  # noqa: E731
    found = tune(made(plant)[0])
    assert found.settings == FLOAT32
    assert "in bf16 refused: its update of the weights " in found.whys["amp"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda loss, logits: (loss * 1.2, logits), "loss differs from the reference by 20.0%"),
        (lambda loss, logits: (loss * math.nan, logits), "loss differs from the reference by nan%"),
        (lambda loss, logits: (loss, logits.flip(1)), "logits differ from the reference by"),
    ],
)
def test_another_loss_or_other_logits_are_refused(made, change, what):
    def plant(each, step):
        if each.amp == "bf16":
            real = step._train
            step._train = lambda images, labels: change(*real(images, labels))
        return step

    assert f"in bf16 refused: its {what}" in tune(made(plant)[0]).whys["amp"]


def test_an_update_that_never_comes_is_refused(made):
    def plant(each, step):
        if each.amp == "bf16":
            step._update = lambda: (None, None)
        return step

    assert "times as long as the reference's" in tune(made(plant)[0]).whys["amp"]


def test_true_bf16_and_fp16_pass_and_a_first_overflow_is_no_difference(made):
    trial, _, loader = made(words=("off", "bf16", "fp16"))
    found = Turns(trial)
    found.run()
    assert all(row.seconds for row in found.table.values())
    assert len(found.table) == 3
    huge = next(iter(loader)).images * 3e3
    (labels,) = [next(iter(loader)).labels]
    fp16 = trial.make(Settings("fp16"))
    fp16.scaler._init_scale = 2.0**30
    fp16.scaler._scale.fill_(2.0**30)
    fp16.model.train()
    outcome = same_numbers.outcome(fp16, (huge, labels))
    assert any(bool(each.any()) for each in outcome.update)
    assert float(fp16.scaler._scale) < 2.0**30


def test_all_of_random_networks_but_their_loss_may_differ():
    one = torch.ones(4)
    outcome = same_numbers.Outcome(torch.tensor(2.0), one, [one], random=True)
    other = outcome._replace(logits=-one, update=[-one])
    assert same_numbers.difference(other, outcome, "bf16") is None
    assert same_numbers.difference(other, outcome._replace(random=False), "bf16")
    assert same_numbers.difference(other._replace(loss=torch.tensor(9.0)), outcome, "bf16")
    model = torch.nn.Sequential(tiny_model(), torch.nn.Dropout(0.5))
    step = tiny_step()
    step._wrapped = model
    batch = torch.randn(8, 3, 32, 32), torch.arange(8)
    assert same_numbers.outcome(step, batch).random
    assert not same_numbers.outcome(tiny_step(), batch).random


def state(step, loader):
    """Everything that a run goes on from, copied."""
    values = step.state_dict(), step.sums, [w.grad for w in step.model.parameters()]
    values = tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, values)
    training = [module.training for module in step.model.modules()]
    return values, torch.get_rng_state(), loader._place, training, random.getstate()


def equal(a, b):
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for x, y in zip(
            torch.utils._pytree.tree_leaves(a), torch.utils._pytree.tree_leaves(b), strict=True
        )
    )


@pytest.mark.parametrize("plant", [None, slow("off"), lambda each, step: Sleeper(step, 0, spoiled)])
def test_what_is_timed_is_undone_bit_for_bit(made, plant):
    trial, step, loader = made(plant, words=("off", "bf16", "fp16"))
    for images, labels in [trial.batch()] * 2:  # momentum and statistics that are not zero
        step(images, labels)
    step.lr = 0.3
    step.model[0].eval()
    loader.seek(1)
    before = state(step, loader)
    tune(trial)
    loader.seek(1)  # as build does
    assert equal(state(step, loader), before)
    step(*trial.batch())
    assert not equal(state(step, loader), before), "the control"


def test_a_signal_in_the_middle_goes_through_and_leaves_the_state(made, tmp_path):
    class Signal(BaseException):
        pass

    calls = iter(range(100))

    def stop(step):
        if next(calls) == 3:
            raise Signal

    trial, step, loader = made(lambda each, step: Sleeper(step, 0, stop))
    before = state(step, loader)
    with pytest.raises(Signal):
        tune(trial, folder=tmp_path / "measured")
    loader.seek(1)
    assert equal(state(step, loader), before)
    assert not (tmp_path / "measured").exists()
    assert tune(made(slow("bf16"))[0], folder=tmp_path / "measured").settings == FLOAT32


def test_it_is_remembered_and_a_second_start_times_nothing(made, tmp_path, monkeypatch):
    first = tune(made(slow("bf16"))[0], folder=tmp_path)
    monkeypatch.setattr(turns.Turns, "run", lambda self: pytest.fail("timed again"))
    again = tune(made(slow("off"))[0], folder=tmp_path)
    assert again.settings == first.settings == FLOAT32
    assert again.whys["amp"] == first.whys["amp"].replace("measured", "measured, remembered")
    assert again.table == first.table
    other = made(slow("bf16"))[0]._replace(facts=lambda: {"a test": 2})
    with pytest.raises(pytest.fail.Exception, match="timed again"):
        tune(other, folder=tmp_path)
    with pytest.raises(pytest.fail.Exception, match="timed again"):
        tune(made(slow("off"))[0], folder=tmp_path, mode="always")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"facts": {"a test": 1}, "measured": 3}'])
def test_a_damaged_memory_is_measured_anew_and_mended(made, tmp_path, damage):
    tune(made(slow("bf16"))[0], folder=tmp_path)
    (file,) = tmp_path.iterdir()
    sound = file.read_bytes()
    file.write_bytes(damage)
    assert tune(made(slow("off"))[0], folder=tmp_path).settings == BF16
    assert len(file.read_bytes()) > len(sound) / 2


@pytest.mark.parametrize(
    "change",
    [
        {"amp": "int8"},
        {"seconds": -1.0},
        {"seconds": True},
        {"n": "3"},
        {"more": 1},
        {"why": None},
        {"amp": "fp16"},  # a word that this run does not ask for
    ],
)
def test_a_memory_with_impossible_rows_is_not_used(made, tmp_path, change):
    trial = made()[0]
    kept = tune(trial, folder=tmp_path).table
    rows = [{**row, **change} for row in kept["steps"]]
    remembered.write(tmp_path, trial.facts(), {**kept, "steps": rows})
    assert tune(made(slow("bf16"))[0], folder=tmp_path).settings == FLOAT32


def test_what_cannot_be_remembered_is_said_and_used(made, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    said = []
    found = tune(made(slow("bf16"))[0], folder=tmp_path / "file", log=said.append)
    assert found.settings == FLOAT32
    assert said[1].startswith("  not remembered for the next run: output (")


@pytest.mark.parametrize("options", [{"steps": 200}, {"most_seconds": 20.0}])
def test_a_short_run_keeps_the_rule_and_trains_nothing(made, options):
    trial = made(lambda each, step: pytest.fail("a step"), **options)[0]
    found = tune(trial)
    assert found.settings == BF16
    assert found.whys == {"amp": "not measured: the run is too short"}


def test_a_short_run_uses_what_is_remembered(made, tmp_path):
    tune(made(slow("bf16"))[0], folder=tmp_path)
    found = tune(made(steps=6)[0], folder=tmp_path)
    assert found.settings == FLOAT32
    assert found.whys["amp"].startswith("measured, remembered: ")


def test_nothing_to_choose_is_nothing_to_time(made):
    assert tune(made(words=("bf16",))[0]) is None


def test_where_a_step_takes_too_long_one_is_trained_and_the_rule_holds(made, tmp_path):
    began, words = clock(), ("off", "bf16", "fp16")
    given = made(lambda each, step: Sleeper(step, 7.0), words=words)[0]
    found = tune(given, folder=tmp_path)
    assert clock() - began == pytest.approx(7.0)
    assert found.settings == BF16
    assert found.whys == {"amp": "not measured: a step takes too long to time several"}
    tuned = tune(made(slow("bf16"))[0], folder=tmp_path)
    assert tuned.settings == FLOAT32, "another start has the time"


def by_images(words=("off", "bf16"), **seconds):
    """A plant: each precision takes so many seconds an image."""

    def plant(each, step):
        class Each(Sleeper):
            def __call__(self, images, labels):
                clock.sleep(seconds[each.amp] * len(labels))
                return super().__call__(images, labels)

        return Each(step, 0.0)

    return plant


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_where_whole_batches_take_too_long_a_part_stands_for_them(made, tiny_splits, amp):
    seconds = {"off": 0.08, "bf16": 0.08, amp: 0.04}
    whole = tiny_loader(tiny_splits[0], batch_size=128)
    given = made(by_images(**seconds))[0]._replace(make_loader=lambda kind: whole)
    began = clock()
    found = tune(given)
    assert found.settings.amp == amp
    other = "in bf16" if amp == "off" else "in float32"
    said = f"measured: 5120 ms a step against 10240 {other}; on 32 of 128 images"
    assert found.whys["amp"] == said
    assert clock() - began < 15
    quick = {"off": 0.003, "bf16": 0.003, amp: 0.0015}
    given = made(by_images(**quick))[0]._replace(make_loader=lambda kind: whole)
    assert tune(given).whys["amp"] == f"measured: 192 ms a step against 384 {other}"


def test_a_reference_that_alone_could_be_timed_is_not_chosen_for_that(made):
    """It is the first to be trained."""
    found = tune(made(slow("off", 3.3), words=("off", "bf16", "fp16"))[0])
    assert found.settings == BF16


def test_what_had_no_time_is_timed_by_a_longer_run(made, tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "LEAST", 0.0)
    words = ("off", "bf16", "fp16")
    short = tune(made(slow("fp16", 0.3), words=words, most_seconds=10.0)[0], folder=tmp_path)
    assert timings(short)["fp16"] <= 1
    kept = plain_of({BF16: Row(0.002, 3), FLOAT32: Row(0.003, 3)}, allowed=0.3)
    kept["steps"].append({**Settings("fp16")._asdict(), **Row(why=trial.OUT_OF_TIME)._asdict()})
    given = made(slow("off"), words=words)[0]
    remembered.write(tmp_path, given.facts(), kept)
    assert "remembered" in tune(given._replace(most_seconds=10.0), folder=tmp_path).whys["amp"]
    assert "remembered" not in tune(given, folder=tmp_path).whys["amp"]


def test_the_limit_is_three_percent_of_the_run_once_it_is_known(made):
    given = made()[0]
    table = {FLOAT32: Row(0.002, 3)}
    assert limit(given, {}) == 15
    assert limit(given, table) == pytest.approx(0.03 * 20)
    assert limit(given._replace(most_seconds=10.0), table) == pytest.approx(0.3)
    assert too_short(given._replace(steps=266))
    assert not too_short(given._replace(steps=267))


class Pair:
    """A group in which the other process could not time bf16."""

    first, world = True, 2

    def max(self, number):
        self.asked = getattr(self, "asked", 0) + 1
        return 1 if self.asked == 1 else number

    def broadcast(self, value):
        return value


def test_what_fails_in_one_process_is_taken_by_none(made):
    found = tune(made(slow("off"))[0]._replace(group=Pair()))
    assert found.settings == FLOAT32
    assert "in bf16 dropped: it was not timed in every process" in found.whys["amp"]


class Second(Pair):
    """The second process: it takes the times of the first, whatever it found itself."""

    first = False

    def max(self, number):
        return number

    def broadcast(self, value):
        if isinstance(value, list) and all(isinstance(row, list) for row in value):
            return [[*row[:5], 0.001 if row[0] == "off" else 0.002, *row[6:]] for row in value]
        return value


def test_the_times_of_rank_0_count(made, tmp_path):
    given = made(slow("off"))[0]._replace(group=Second())
    assert tune(given, folder=tmp_path).settings == FLOAT32
    assert not list(tmp_path.iterdir())


# What a GPU would try, by plain data.
WIDE = {
    "amp": ("off", "bf16", "fp16"),
    "convolutions": ("plain",),
    "compile": ("off", "on"),
    "graphs": ("off", "on"),
    "optimizer": ("torch", "kernel"),
}
GRAPHED = Settings("bf16", graphs="on")


def test_on_a_gpu_precisions_and_graphs_are_tried_together_then_the_kernel_then_the_compiler():
    one, two, three = stages(WIDE, BF16)
    tried = one(BF16)
    assert tried[0] == BF16
    assert tried[1] == GRAPHED
    assert {(each.amp, each.graphs) for each in tried} == {
        (amp, graphs) for amp in WIDE["amp"] for graphs in WIDE["graphs"]
    }
    assert two(GRAPHED) == [GRAPHED._replace(optimizer="kernel")]
    compiled = [GRAPHED._replace(compile="on", graphs=word) for word in ("off", "on")]
    assert three(GRAPHED) == compiled


def test_explicit_words_are_fixed(monkeypatch):
    monkeypatch.setattr(auto, "precisions", lambda device: ("off", "bf16", "fp16"))
    chosen = {name: Choice(word, "not measured") for name, word in BF16._asdict().items()}
    assert space(Recipe(), GPU, ResNet18(), chosen) == WIDE
    asked = {name: Choice(word, "requested") for name, word in BF16._asdict().items()}
    fixed = {name: (word,) for name, word in BF16._asdict().items()}
    assert space(Recipe(amp="bf16"), GPU, ResNet18(), asked) == fixed
    assert space(Recipe(amp="bf16"), CPU, tiny_model(), asked) == fixed
    packed = fixed | {"convolutions": ("plain", "packed")}
    assert space(Recipe(amp="bf16"), CPU, ResNet18(), asked) == packed


def test_on_a_cpu_packed_convolutions_are_tried_in_bf16_alone():
    names = {**{n: (w,) for n, w in BF16._asdict().items()}, "amp": ("off", "bf16", "fp16")}
    names["convolutions"] = ("plain", "packed")
    packed = BF16._replace(convolutions="packed")
    tried = stages(names, packed)[0](packed)
    assert tried == [packed, BF16, FLOAT32, Settings("fp16")]


def test_an_explicit_compile_is_added_to_what_is_timed_without_it(made):
    given = made(slow("bf16"), rule=Settings("bf16", compile="on"))[0]
    found = tune(given)
    assert found.settings == Settings(compile="on")
    assert all(row["compile"] == "off" for row in found.table["steps"])


def test_a_captured_step_and_the_kernels_optimizer_are_compared_timed_undone_and_kept(made):
    """Graphs by a stand-in that replays no Python, the kernel by triton's interpreter."""
    tapes, updates = [], {}

    def plant(each, step):
        kind = each.optimizer
        rates = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
        if kind not in updates:
            updates[kind] = sgd(step.model, provider=kind, **rates)
        step.optimizer = updates[kind]
        if each.graphs == "on":
            tapes.append(Tape())
            step = GraphedStep(step, tapes[-1])
        return step

    words = {"graphs": ("off", "on"), "optimizer": ("torch", "kernel")}
    given, step, loader = made(plant, words=("off",), rule=FLOAT32)
    given = given._replace(space={**given.space, **words})
    before = state(step, loader)
    found = Turns(given)
    table = found.run()
    assert [each for each in table if table[each].seconds] == list(table)
    assert len(table) == 3, "eager, captured, and the better one with the kernel"
    loader.seek(1)
    assert equal(state(step, loader), before)
    for update in updates.values():
        assert not any(values["momentum_buffer"].any() for values in update.state.values())
    assert all(tape.captures == 1 and tape.replays > 1 for tape in tapes)
    best = choose(table, steps=given.steps)
    kept = found.made[best]
    kept.model.train()
    kept(*given.batch())
    assert any(values["momentum_buffer"].any() for values in kept.optimizer.state.values())


EAGER, BEST = Row(0.0041, 3), Row(0.0029, 3)
COMPILED = GRAPHED._replace(compile="on")


def test_what_finishes_first_is_chosen_its_setting_up_included():
    table = {BF16: EAGER, GRAPHED: BEST, COMPILED: Row(0.0023, 3, setup=60.0)}
    assert choose(table, steps=100, prefer="on") == GRAPHED
    assert choose(table, steps=19_500, prefer="on") == GRAPHED
    assert choose(table, steps=150_000, prefer="on") == COMPILED
    warm = {**table, COMPILED: Row(0.0023, 3, setup=8.0)}
    assert choose(warm, steps=19_500, prefer="on") == COMPILED


def test_a_tie_goes_to_the_simplest_and_on_a_gpu_to_the_compiled_step():
    table = {GRAPHED: Row(1.0, 3), BF16: Row(1.019, 3), COMPILED: Row(1.015, 3)}
    assert choose(table, steps=100) == BF16
    assert choose(table, steps=100, prefer="on") == COMPILED
    assert choose({**table, BF16: Row(1.021, 3)}, steps=100) == GRAPHED


def test_times_of_a_part_of_the_batch_are_equal_within_five_per_cent():
    part = "on 32 of 128 images"
    table = {
        BF16: Row(1.03, 3, why=part),
        BF16._replace(convolutions="packed"): Row(1.0, 3, why=part),
    }
    assert choose(table, steps=100) == BF16
    table[BF16] = Row(1.06, 3, why=part)
    assert choose(table, steps=100).convolutions == "packed"


def test_the_compiler_is_tried_only_where_half_of_the_run_is_longer_than_a_minute():
    assert not may_pay({GRAPHED: BEST}, 19_500)
    assert may_pay({GRAPHED: BEST}, 45_000)
    assert not may_pay({}, 10**9)


def test_a_choice_is_said_with_the_best_of_each_other_word():
    table = {BF16: EAGER, GRAPHED: BEST, Settings("fp16"): Row(why="dropped: Error: no")}
    assert why("graphs", table, GRAPHED, steps=1) == (
        "measured: 2.9 ms a step against 4.1 without a graph"
    )
    assert why("amp", table, GRAPHED, steps=1) == (
        "measured: 2.9 ms a step; in fp16 dropped: Error: no"
    )
    table[COMPILED] = Row(0.0023, 3, setup=58.4)
    assert why("compile", table, COMPILED, steps=1) == (
        "measured: 2.3 ms a step and 58 s once against 2.9 not compiled"
    )
    slow = {BF16: Row(0.87, 3), FLOAT32: Row(2.0123, 1)}
    assert why("amp", slow, BF16, steps=1) == "measured: 870 ms a step against 2012 in float32"


def test_a_run_too_short_for_the_compiler_is_told_so(made, tmp_path):
    given = made(words=("bf16",))[0]
    given = given._replace(space={**given.space, "compile": ("off", "on")})
    kept = plain_of({BF16: BEST})
    remembered.write(tmp_path, given.facts(), kept)
    found = tune(given._replace(steps=19_500), folder=tmp_path)
    assert found.whys["compile"] == "57 s of steps are too few to pay back a minute of compiling"
    assert found.settings.compile == "off"


def plain_of(table, allowed=15.0):
    measured = Measured(table, LoaderTimes(0.0, 1.0, {}, {}), allowed)
    assert parsed(plain(measured)) == measured
    return plain(measured)


# Loaders.
def test_a_loader_that_takes_a_hundredth_of_a_step_is_kept_without_timing_others(made):
    given = made(slow("bf16"), loaders=("resident", "kernel"), rule=FLOAT32, words=("off",))[0]
    step = Sleeper(given.make(FLOAT32), 0.0)
    times = loader_times.time_loaders(given, FLOAT32, step, 10.0, left=12.0)
    assert times.beside == {}
    name, why = fastest(times, given.loaders)
    assert name == "resident"
    assert why.startswith("measured: a batch in ")


class Waits:
    """A loader whose every batch takes longer."""

    def __init__(self, loader, seconds):
        self.loader, self.seconds = loader, seconds

    def __iter__(self):
        for batch in self.loader:
            clock.sleep(self.seconds)
            yield batch


def test_a_loader_that_holds_the_step_up_gives_way_and_what_fails_is_said(made, monkeypatch):
    monkeypatch.setattr(loader_times, "IMAGES", {"cpu": 16})
    given, step, loader = made(loaders=("dali", "resident", "kernel"))
    before = state(step, loader)

    def make(kind):
        if kind == "kernel":
            raise RuntimeError("no launcher")
        return Waits(loader, 0.01) if kind == "dali" else loader

    found = tune(given._replace(make_loader=make))
    assert found.loader == "resident"
    assert " ms a step with it against " in found.whys["loader"]
    assert found.whys["loader"].endswith(" with dali; kernel dropped: RuntimeError: no launcher")
    loader.seek(1)
    assert equal(state(step, loader), before)


def test_the_users_loader_stays_if_it_costs_no_more_than_a_hundredth():
    beside = {"dali": 1.009, "resident": 1.0}
    assert fastest(LoaderTimes(0.5, 0.9, beside, {}), ("dali", "resident"))[0] == "dali"
    beside["dali"] = 1.011
    assert fastest(LoaderTimes(0.5, 0.9, beside, {}), ("dali", "resident"))[0] == "resident"
