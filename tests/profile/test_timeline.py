"""The shares of a trace: of made traces with known shares, and of a real one."""

import gzip
import json
import random
import time

import numpy as np
import pytest

from fasttrain.profile import intervals, timeline
from fasttrain.profile.trace import span, trace
from tests.conftest import tiny_step
from tests.engine.test_step import batch


def event(name, start, stop, cat="user_annotation", tid=1, **args):
    return {
        "ph": "X",
        "name": name,
        "cat": cat,
        "ts": start,
        "dur": stop - start,
        "tid": tid,
        "args": args,
    }


def summarised(tmp_path, events):
    """Write a trace as the profiler does: in microseconds and out of order."""
    path = tmp_path / "fasttrain.1.pt.trace.json.gz"
    shuffled = random.Random(0).sample(events, len(events))
    other = [{"ph": "M", "name": "process_name"}, {"ph": "i", "name": "mark", "ts": 5.0}]
    with gzip.open(path, "wt") as file:
        json.dump({"traceEvents": other + shuffled}, file)
    return timeline.summarise(timeline.read(path))


def gpu_trace():
    """Four steps of 1 ms: 550 us of kernels on two streams, then 200 of data wait, 250 of gaps."""
    events = []
    for number in range(4):
        at = 1000 * number
        events += [
            event("data", at, at + 200),
            event("step", at + 200, at + 300),
            event("cudaLaunchKernel", at + 210, at + 215, "cuda_runtime", correlation=2 * number),
            event(
                "cudaLaunchKernel", at + 290, at + 295, "cuda_runtime", correlation=2 * number + 1
            ),
            event("void gemm<float>", at + 400, at + 900, "kernel", 7, correlation=2 * number),
            event("add", at + 800, at + 950, "kernel", 8, correlation=2 * number + 1),
            event("step", at + 400, at + 950, "gpu_user_annotation", 7),
        ]
    return [
        *events,
        event("eval", 4000, 4500),
        event("cudaLaunchKernel", 4010, 4020, "cuda_runtime", correlation=99),
        event("forward", 4100, 4400, "kernel", 7, correlation=99),
    ]


def test_a_gpus_time_is_split_into_work_data_wait_and_gaps(tmp_path):
    found = summarised(tmp_path, gpu_trace())
    assert (found.device, found.steps) == ("cuda", 3)  # the first only marks the beginning
    assert found.step_seconds == pytest.approx(1e-3)
    assert (found.busy, found.data_wait, found.host_gap) == pytest.approx((0.55, 0.2, 0.25))
    assert found.top[0] == ("void gemm<float>", 1, pytest.approx(500e-6))
    assert [operator.name for operator in found.top] == ["void gemm<float>", "add"]
    assert found.spans == pytest.approx({"data": 200e-6, "step": 100e-6, "eval": 500e-6})


def test_a_wait_for_data_behind_which_the_gpu_works_costs_nothing(tmp_path):
    events = [*gpu_trace(), event("copy", 0, 5000, "gpu_memcpy", 9, correlation=-1)]
    found = summarised(tmp_path, events)
    assert (found.busy, found.data_wait, found.host_gap) == pytest.approx((1, 0, 0))


def test_on_a_cpu_what_is_in_no_operator_is_a_gap(tmp_path):
    events = []
    for at in (0, 1000, 2000):
        events += [
            event("data", at, at + 100),
            event("slice", at + 10, at + 50, "cpu_op"),
            event("step", at + 100, at + 900),
            event("outer", at + 100, at + 500, "cpu_op"),
            event("inner", at + 150, at + 250, "cpu_op"),
            event("innermost", at + 160, at + 170, "cpu_op"),
            event("other", at + 600, at + 900, "cpu_op", 2),
        ]
    found = summarised(tmp_path, events)
    assert (found.device, found.steps) == ("cpu", 2)
    assert (found.busy, found.data_wait, found.host_gap) == pytest.approx((0.7, 0.1, 0.2))
    own = {name: seconds for name, _, seconds in found.top}
    expected = {"outer": 300, "other": 300, "inner": 90, "slice": 40, "innermost": 10}
    assert own == pytest.approx({name: 1e-6 * took for name, took in expected.items()})
    assert all(operator.calls == 1 for operator in found.top)


def test_one_step_is_counted_from_its_wait_for_data_and_none_is_no_profile(tmp_path):
    events = [event("data", 0, 100), event("step", 100, 400), event("op", 100, 400, "cpu_op")]
    found = summarised(tmp_path, events)
    assert (found.steps, found.busy, found.data_wait) == (1, pytest.approx(0.75), 0.25)
    assert summarised(tmp_path, events[:1]) is None


def test_the_summary_reads_as_lines_with_its_numbers(tmp_path):
    found = summarised(tmp_path, gpu_trace())
    lines = timeline.describe(found, untraced=0.9e-3, epoch=2).splitlines()
    assert lines[0].endswith(
        "3 training steps on cuda, 1.000 ms each, 0.900 ms without the profiler in epoch 2"
    )
    assert lines[1] == "  device busy 55.0%, data wait 20.0%, host gap 25.0%"
    assert lines[4].split() == ["0.500", "50.0%", "1", "gemm<float>"]


@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_a_real_trace_shows_a_loader_that_keeps_the_step_waiting(tmp_path, pause):
    step, ready, written = tiny_step(), batch(256), []
    with trace(tmp_path, skip=2, active=6, written=written.append) as hook:
        for _ in range(8):
            with span("data"):
                time.sleep(pause)
            with span("step"):
                step(*ready)
            hook(None)
    found = timeline.summarise(timeline.read(written[0]))
    assert found.steps == 5
    assert found.busy + found.data_wait + found.host_gap == pytest.approx(1)
    waited = found.data_wait * found.step_seconds
    assert pause <= waited < pause + 0.09
    assert found.spans["optimizer"] < found.spans["step"]
    assert any("conv" in operator.name for operator in found.top)
    assert sum(operator.seconds for operator in found.top) <= found.step_seconds


def test_sets_of_intervals_agree_with_sets_of_points():
    generator = random.Random(1)
    for _ in range(50):
        a, b = (
            [(s, s + generator.randint(1, 9)) for s in generator.choices(range(60), k=6)]
            for _ in range(2)
        )
        a, b = intervals.union(a), intervals.union(b)
        inside = [np.zeros(80, bool) for _ in range(2)]
        for mask, some in zip(inside, (a, b), strict=True):
            for start, stop in some:
                mask[start:stop] = True
        assert intervals.length(a) == inside[0].sum()
        assert intervals.length(intervals.intersection(a, b)) == (inside[0] & inside[1]).sum()
        assert intervals.length(intervals.difference(a, b)) == (inside[0] & ~inside[1]).sum()
