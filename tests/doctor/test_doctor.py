"""The doctor: findings from known numbers, timings of known speeds, and the whole command."""

import io
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch._inductor import config as inductor

from fasttrain.cli import main as cli
from fasttrain.console.console import Display
from fasttrain.data import Batch
from fasttrain.doctor import compiled, doctor, inventory, measure, probe
from fasttrain.doctor.bottleneck import Measured, Trial, combined_rate, findings, untried, verdict
from fasttrain.engine.candidates import Row, Settings
from fasttrain.engine.tune import Tuned
from fasttrain.errors import EnvironmentProblem
from fasttrain.machine.auto import cpu_multiplies_bf16
from fasttrain.recipe.recipe import Recipe
from fasttrain.run import tuned
from tests.conftest import tiny_step
from tests.engine.test_step import batch

BALANCED = Measured(
    batch_size=128,
    loader=100_000.0,
    step=1000.0,
    both=990.0,
    wait=0.01,
    steps=[],
    loaders=[],
    busy=None,
    compiled=False,
    mfu=0.6,
    spread=0.02,
)


def measured(**changes):
    return BALANCED._replace(**changes)


def test_where_nothing_gains_the_step_is_the_limit():
    assert findings(measured(steps=[Trial("precision", "--amp bf16", 1020.0)])) == []
    assert "nothing tried here would gain 5%" in verdict(measured())
    assert "60%" in verdict(measured())


def test_a_slow_loader_gains_at_most_what_the_step_alone_does():
    dali = Trial("loader", "--loader dali", 5000.0)
    slow = measured(loader=500.0, both=400.0, wait=0.6, loaders=[dali])
    (found,) = findings(slow)
    assert (found.limit, found.bound) == ("loader-bound", True)
    assert found.gain == pytest.approx(1000 / 400)
    assert found.change == "--loader dali loads 10.00x the images"
    assert verdict(slow).startswith("most to gain: loader-bound: --loader dali")
    on_a_gpu = slow._replace(wait=0.0, busy=0.9)  # which waits unseen by the host
    assert findings(on_a_gpu) == [found]
    alone = findings(slow._replace(loaders=[Trial("loader", "--loader dali", 510.0)]))[0]
    assert "no other loader tried is faster" in alone.change


def test_a_faster_step_gains_only_in_the_time_that_is_the_steps():
    half = measured(both=500.0, wait=0.5, steps=[Trial("precision", "--amp bf16", 2000.0)])
    gains = {found.limit: found.gain for found in findings(half)}
    assert gains["precision"] == pytest.approx(2 / 1.5)  # 1 + 1 ms an image become 0.5 + 1
    assert gains["loader-bound"] == pytest.approx(2)
    assert next(iter(gains)) == "loader-bound"  # the largest gain comes first


def test_a_gpu_that_waits_for_the_host_is_launch_bound():
    idle = findings(measured(busy=0.4))[0]
    assert idle.limit == "launch-bound (the GPU works 40% of a step)"
    assert (idle.change, idle.gain, idle.bound) == ("--compile on", pytest.approx(2.5), True)
    assert findings(measured(busy=0.4, compiled=True))[0].change == "--batch-size 512"
    assert findings(measured(busy=0.97)) == []


@pytest.mark.parametrize(
    ("trial", "limit"),
    [
        (Trial("batch", "--batch-size 512", 1500.0), "small batch"),
        (Trial("compile", "--compile on", 1500.0), "no compile"),
        (Trial("graphs", "--graphs on", 1500.0), "launch-bound"),
        (Trial("threads", "OMP_NUM_THREADS=2 instead of 1", 1500.0), "wrong number of threads"),
    ],
)
def test_each_kind_of_change_has_its_name(trial, limit):
    assert [(f.limit, f.change, f.bound) for f in findings(measured(steps=[trial]))] == [
        (limit, trial.change, False)
    ]


def test_timings_that_differ_widely_are_said_to():
    assert "with care" in verdict(measured(spread=0.6))
    assert "with care" not in verdict(measured())


def test_what_cannot_be_tried_here_is_named():
    assert "jemalloc" in untried(measured(), allocator="glibc 2.36")[0]
    assert untried(measured(), allocator="jemalloc, preloaded") == []
    assert "--compile on" in untried(measured(busy=0.9), allocator="glibc 2.36")[0]


def test_taking_turns_adds_the_times():
    assert combined_rate(100.0, 100.0) == pytest.approx(50)
    assert combined_rate(1e9, 20.0) == pytest.approx(20)


class Sleepy:
    """A loader of ready batches, each after a pause."""

    def __init__(self, pause, size=32):
        self.pause, self.batch = pause, Batch(*batch(size))

    def __iter__(self):
        for _ in range(len(self)):
            if self.pause:  # even sleep(0) gives the core to another process
                time.sleep(self.pause)
            yield self.batch

    def __len__(self):
        return 5

    def seek(self, epoch, step=0):
        pass


@pytest.mark.parametrize(("pause", "bound"), [(0.1, True), (0.0, False)])
def test_a_loader_that_sleeps_is_found_out(pause, bound):
    step, loader = tiny_step(), Sleepy(pause)
    alone = probe.loader_rate(loader, step.device, seconds=0.1, images=64)
    steps = probe.step_rate(step, loader.batch, seconds=0.1)
    both, wait = probe.training_rate(step, loader, seconds=0.2, images=64)
    numbers = {"loader": alone.median, "step": steps.median, "both": both.median, "wait": wait}
    found = findings(measured(**numbers, steps=[], loaders=[]))
    if bound:
        assert 0.5 * 32 / pause < alone.median <= 32 / pause
        assert wait > 0.5
        assert both.median < 32 / pause
        assert (found[0].limit, found[0].bound) == ("loader-bound", True)
    else:
        assert wait < 0.2
        assert alone.median > 10 * steps.median


def test_rates_are_medians_that_outlast_one_slow_timing():
    pauses = iter([0.0, 0.03, 0.6, 0.03])

    def work():
        time.sleep(next(pauses))
        return 32

    rate = probe.timed(work, torch.device("cpu"), 0.0)
    assert (rate.n, probe.MIN_TIMINGS) == (3, 3)  # the first is for warming up
    assert rate.low <= 32 / 0.6 < 32 / 0.1 < rate.median <= rate.high <= 32 / 0.03
    assert "(median of 3; " in str(rate)


@pytest.mark.parametrize(("first", "timings"), [(0.4, 1), (0.02, 3)])
def test_what_takes_longer_than_its_budget_is_timed_once(first, timings, monkeypatch):
    monkeypatch.setattr(probe, "MAX_WARM_UP_SECONDS", 0.3)
    calls = []

    def work():
        calls.append(1)
        time.sleep(first)
        return 32

    rate = probe.timed(work, torch.device("cpu"), 0.0)
    assert rate.n == timings
    assert len(calls) == (1 if timings == 1 else 1 + timings)
    assert rate.median <= 32 / first


def test_the_share_of_a_step_in_which_the_device_works_comes_from_a_trace():
    step, ready = tiny_step(), Batch(*batch(256))
    began = time.perf_counter()
    seconds = probe.busy_share(step, ready, step_seconds=1.0)  # of work a step, so
    assert 0.001 < seconds < (time.perf_counter() - began) / 3  # three steps were counted
    assert probe.busy_share(step, ready, step_seconds=1e-6) == 1


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        ("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2", "jemalloc, preloaded"),
        ("/opt/lib/libtcmalloc_minimal.so.4.5.9", "tcmalloc, preloaded"),
        ("/usr/lib/libc.so.6", "glibc"),
        ("/srv/jemalloc/libother.so", "glibc"),
    ],
)
def test_the_allocator_is_found_from_the_libraries_in_memory(library, expected):
    maps = f"7f00-7f01 r-xp 00000000 fe:01 1234    {library}\n7ffe-7fff rw-p 0 00:00 0  [stack]\n"
    assert inventory.allocator(maps).startswith(expected)


@pytest.mark.slow  # reads Linux's own account of the processor
def test_the_inventory_names_what_is_there_and_says_why_what_is_not_is_not():
    found = inventory.inventory()
    assert torch.__version__ in found["torch"]
    flags = Path("/proc/cpuinfo").read_text()
    for feature, flag in [("avx2", "avx2"), ("avx512_bf16", "avx512_bf16"), ("amx_bf16",) * 2]:
        assert (feature in found["features"].split(", ")) == bool(re.search(rf"\b{flag}\b", flags))
    assert found["DALI"][0].isdigit() or "nvidia" in found["DALI"]
    if not torch.cuda.is_available():
        assert found["gpu"].startswith("none")
        assert "apex" in found["apex"]


def test_on_a_slow_cpu_a_smaller_batch_stands_for_the_recipes(monkeypatch):
    halves = doctor.images()
    on = torch.device("cpu")
    slow = Recipe(device="cpu", loader="resident", batch_size=128, amp="off")
    for speed, expected in [(1.0, 2), (3.0, 2), (9.0, 8), (40.0, 32), (5000.0, 128)]:
        rate = probe.Rate(speed, 3, speed, speed)
        monkeypatch.setattr(measure, "step_rate", lambda *args, rate=rate, **options: rate)
        assert measure.workload(slow, on, halves, seconds=10).recipe.batch_size == expected


def test_the_doctor_says_what_it_found_chose_and_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = io.StringIO()
    recipe = Recipe(device="cpu", batch_size=2, amp="off", epochs=1, tune="off")
    found = doctor.examine(recipe, display=Display(Console(file=text, width=200)), seconds=0.5)
    said = text.getvalue()
    for words in ("found\n", "choices\n", "measured on cpu", "batch 2", "most to gain: "):
        assert words in said
    assert "amp          off (requested)" in said
    assert "optimizer    torch.SGD (" in said
    assert 0 < found.both < found.step < found.loader
    assert 0 < found.mfu < 5  # beside other programs the product's rate may be measured too low
    assert [trial.change for trial in found.loaders] == ["--loader resident"]
    bf16 = ["--amp bf16"] if cpu_multiplies_bf16() else []
    others = [trial.change for trial in found.steps if trial.kind != "threads"]
    assert others == bf16


def test_the_doctor_measures_what_auto_is_anew_prints_the_table_and_refreshes_the_memory(
    tmp_path, monkeypatch
):
    found = {"bf16": 0.87, "off": 2.01}
    rows = [{**Settings(amp)._asdict(), **Row(s, 3)._asdict()} for amp, s in found.items()]
    rows += [{**Settings("fp16")._asdict(), **Row(why="refused: its loss is nan")._asdict()}]
    asked = []

    def tune(trial, *, mode, **options):
        asked.append(mode)
        return Tuned(Settings("bf16"), "resident", {"amp": "measured: a test"}, {"steps": rows})

    monkeypatch.setattr(tuned, "tune", tune)
    said = []
    recipe = Recipe(device="cpu", loader="resident", batch_size=2, model="sprint", widths="8,8,8")
    built = doctor.chosen(recipe, doctor.images(), said.append)
    assert asked == ["always"]
    assert built.choices["amp"] == ("bf16", "measured: a test")
    assert list(doctor.table(built.measured)) == [
        "measured for auto, in turns",
        "  bf16 plain eager torch             870 ms (n = 3)",
        "  float32 plain eager torch          2010 ms (n = 3)",
        "  fp16 plain eager torch             refused: its loss is nan",
    ]
    doctor.chosen(replace(recipe, tune="off"), doctor.images(), said.append)
    assert asked == ["always"]
    assert list(doctor.table({})) == []


def test_compiling_is_timed_with_and_without_the_switches_and_norms_alone(monkeypatch):
    switches = []

    def compile(function, **options):
        switches.append((inductor.force_layout_optimization, inductor.loop_reindexing_after_fusion))
        return function

    monkeypatch.setattr(torch, "compile", compile)
    recipe = Recipe(device="cpu", batch_size=8, model="sprint", widths="8,8,8", loader="resident")
    load = measure.workload(
        replace(recipe, amp="off"), torch.device("cpu"), doctor.images(), seconds=0
    )
    said = []
    found = compiled.compiled_rates(load, seconds=0.0, log=said.append)
    assert switches == [(False, True), (True, False), (False, True)]
    assert (inductor.force_layout_optimization, inductor.loop_reindexing_after_fusion) == (
        (False, True)
    )
    assert len(found) == len(said) == 5
    assert said[2].startswith("step, compiled, switches ")


def test_a_machine_without_the_asked_gpu_is_described_before_it_is_refused():
    if torch.cuda.is_available():
        return
    text = io.StringIO()
    with pytest.raises(EnvironmentProblem, match="CUDA is not available"):
        doctor.examine(Recipe(device="cuda"), display=Display(Console(file=text)), seconds=0.1)
    assert "torch" in text.getvalue()


def test_the_doctor_takes_the_machines_flags_and_no_others(capsys):
    assert cli.main(["doctor", "--lr", "0.1"]) == 2
    assert "argument ('--lr'): not known to fasttrain doctor" in capsys.readouterr().err
    assert cli.main(["doctor", "--device", "toaster"]) == 3
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--help"])
    said = capsys.readouterr().out
    for flag in ("--loader", "--amp", "--compile", "--batch-size", "--device", "--optimizer"):
        assert flag in said
    assert "--train-limit" not in said
