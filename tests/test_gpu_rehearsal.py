"""`make gpu` on a machine without a GPU: each stage at toy size, and stages that fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import gpu_stages
import numpy as np
import pytest
import torch

from benchmarks import headline, sprints, table
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import child, images, plan, runner, sprint, stage, tables, tests, turns
from benchmarks.gpu.plan import STAGES, Stage, log_path, result_path
from benchmarks.gpu.record import Job, LeftOut, Record
from benchmarks.peers import airbench94
from fasttrain.data import Split, cache, cifar10
from fasttrain.errors import DataError

ROOT = runner.ROOT
NAMES = [each.name for each in STAGES]
ENVIRONMENT = {
    "date": "2026-11-23T22:30:50+00:00",
    "torch": "2.13.0",
    "fasttrain": {"commit": "c7f90145e310", "modified": False},
    "cpu": {"name": "AMD EPYC", "physical_cores": 2, "capability": "AVX512", "bf16": True},
    "gpu": {"name": "some GPU"},
}


def results(out):
    paths = {name: result_path(out, name) for name in NAMES}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


@pytest.mark.slow
def test_a_rehearsal_runs_every_stage_and_one_that_fails_stops_no_other(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(gpu, "run", partial(runner.run, start=gpu_stages.process))
    words = ["--rehearse", "--out", str(tmp_path)]
    assert gpu.main([*words, "--fail", "loaders"]) == 1
    text = capsys.readouterr().out
    found = results(tmp_path)
    failed = found.pop("loaders")
    assert (failed["state"], failed["why"]) == ("failed", "RuntimeError: asked to fail, by --fail")
    check(found, NAMES[:2] + NAMES[3:], text)
    report = (tmp_path / "report.md").read_text()
    assert "none of these numbers means anything" in report
    assert "| loaders alone | failed: RuntimeError: asked to fail, by --fail |" in report

    assert gpu.main([*words, "--only", "loaders"]) == 0
    again = results(tmp_path)
    assert "resident" in {row["provider"] for row in again.pop("loaders")["rows"]}
    assert again == found, "the others are left as they were"
    with pytest.raises(ValueError, match="a rehearsal measures nothing"):
        tables.keep(tmp_path, "x")


def check(found, names, text):
    """Check that each of these stages measured what there is to measure on a CPU."""
    ended = {name: (each["state"], each["why"]) for name, each in found.items()}
    assert ended == dict.fromkeys(names, ("done", None)), text
    assert all(each["rows"] for each in found.values())
    assert all(each["environment"]["cpu"] for each in found.values())
    ways = {row["way"] for row in found["steps"]["rows"] if "way" in row}
    assert ways >= {"source", "AMP loop", "eager", "graph", "compiled", "both"}
    assert found["tests"]["counts"]["passed"] >= 1
    assert found["mission"]["summary"]["epochs"] == 2
    assert found["sprint"]["series"]["count"] == 2
    assert found["sprint"]["series"]["environment"] == found["sprint"]["environment"]
    assert found["trace"]["rows"][0]["profile"]["steps"] >= 1


@pytest.mark.parametrize("only", [["--only", "machine"], pytest.param([], marks=pytest.mark.soak)])
@pytest.mark.slow
def test_the_command_rehearses_in_processes_of_its_own(tmp_path, only):
    words = ["-m", "benchmarks.gpu", "--rehearse", "--out", str(tmp_path), *only]
    before = os.times()
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path)
    if only:
        assert list(found) == ["machine"]
        assert found["machine"]["state"] == "done"
        return
    after = os.times()  # not by the wall clock, which other programs slow down
    assert sum(after[2:4]) - sum(before[2:4]) < 120
    check(found, NAMES, done.stdout)
    assert (tmp_path / "mission" / "report.html").exists()
    assert not (tmp_path / "mission" / "checkpoints").exists()
    assert (tmp_path / "trace-eager.json.gz").exists()


# What a stage of a name does in its process, `path` being the file of its result.
ACTS = {
    "measures": "record.row({'group': 'g'}); record.end('done')",
    "raises": "record.row({'group': 'g'}); raise SystemExit('CUDA error: an illegal access')",
    "is killed": "record.row({'group': 'g'}); os.kill(os.getpid(), 9)",
    "writes nothing": "path.unlink(); raise SystemExit(7)",
    "hangs": "record.row({'group': 'g'}); signal.signal(2, signal.SIG_IGN);"
    "subprocess.Popen(['sleep', '30'], stdout=open(str(path) + '.pid', 'w'));"
    "time.sleep(30)",
    "stops when asked": "record.row({'group': 'g'})\ntry: time.sleep(30)\n"
    "except KeyboardInterrupt: record.end('out of time', 'its share')",
}
START = """
import os, signal, subprocess, sys, time
from pathlib import Path
from benchmarks.gpu.record import Record
signal.signal(signal.SIGINT, signal.default_int_handler)
path = Path(sys.argv[1])
record = Record(path, {'stage': 's'})
"""


def acted(monkeypatch, tmp_path, *acts, seconds=20.0, needs=()):
    """The results of fake stages, each of which acts as one of ACTS."""
    stages = [Stage(f"s{number}", act, 1, needs) for number, act in enumerate(acts)]
    monkeypatch.setattr(plan, "STAGES", tuple(stages))
    monkeypatch.setattr(runner, "WAKING", 0.5)

    def words(one, ends):
        return [sys.executable, "-c", START + ACTS[one.what], str(result_path(tmp_path, one.name))]

    lines = []
    return runner.run(
        stages,
        words,
        out=tmp_path,
        seconds=seconds,
        grace=0.2,
        environment=os.environ,
        log=lines.append,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "state", "why", "rows"),
    [
        ("raises", "died", "exit status 1: CUDA error: an illegal access", 1),
        ("is killed", "died", "SIGKILL", 1),
        ("writes nothing", "died", "exit status 7", 0),
    ],
)
def test_a_stage_that_dies_keeps_its_rows_and_the_next_one_runs(
    monkeypatch, tmp_path, act, state, why, rows
):
    died, other = acted(monkeypatch, tmp_path, act, "measures")
    assert (died["state"], died["why"], len(died["rows"])) == (state, why, rows)
    assert (other["state"], len(other["rows"])) == ("done", 1)
    kept = [json.loads(result_path(tmp_path, name).read_text()) for name in ("s0", "s1")]
    assert kept == [died, other]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "why"), [("hangs", "stopped after its share, 2 s"), ("stops when asked", "its share")]
)
def test_a_stage_that_does_not_end_is_ended_with_all_it_started(monkeypatch, tmp_path, act, why):
    began = time.monotonic()
    hung, other = acted(monkeypatch, tmp_path, act, "measures", seconds=5.0)
    assert time.monotonic() - began < 5.0
    assert (hung["state"], hung["why"], len(hung["rows"])) == ("out of time", why, 1)
    assert other["state"] == "done"
    assert not _holders(tmp_path / "1-s0.json.pid")


def _holders(path):
    """The processes that have a file open."""
    links = Path("/proc").glob("[0-9]*/fd/*")
    found = []
    for link in links:
        try:
            if os.readlink(link) == str(path):
                found.append(link)
        except OSError:
            continue
    return found


def test_a_stage_whose_package_is_missing_is_left_out_with_its_name(monkeypatch, tmp_path):
    (found,) = acted(monkeypatch, tmp_path, "measures", needs=("torch", "no_such.package"))
    assert (found["state"], found["why"]) == ("left out", "not installed: no_such.package")
    assert json.loads(result_path(tmp_path, "s0").read_text()) == found


def test_stages_for_which_no_time_is_left_say_so(monkeypatch, tmp_path):
    found = acted(monkeypatch, tmp_path, "measures", "measures", seconds=0.8)
    assert [each["state"] for each in found] == ["no time left"] * 2
    assert found[0]["why"] == "1 s were left"


def test_the_order_of_the_stages_is_what_a_first_hour_needs():
    assert " ".join(NAMES) == "machine tests loaders steps mission sprint peers trace"
    assert sum(each.share for each in STAGES) == 100


def test_without_a_gpu_the_measurement_is_refused_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert re.fullmatch(r"benchmarks.gpu: error: no CUDA device .* use --rehearse.\n", said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "steps,stepps"], "no stage stepps"),
        (["--data-dir", "/nowhere/at all"], "there is none"),
        (["--fail", "none"], "invalid choice"),
    ],
)
def test_a_mistake_in_the_arguments_is_said_before_anything_runs(words, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.main(words)
    assert said in capsys.readouterr().err


PYTEST = """\
============================= test session starts ==============================
collected 4 items

tests/engine/test_gpu.py::test_a[resident-True] PASSED                   [ 25%]
tests/engine/test_gpu.py::test_b[a b] FAILED                             [ 50%]
tests/run/test_gpu.py::test_c SKIPPED (DALI: none)                       [ 75%]
"""
FAILED = """\
=================================== FAILURES ===================================
E   AssertionError: 3 is not 4
=========================== short test summary info ============================
FAILED tests/engine/test_gpu.py::test_b[a b] - AssertionError: 3 is not 4
"""
CRASH = "tests/run/test_gpu.py::test_d Fatal Python error: Segmentation fault\n  File x\n"


def test_what_pytest_prints_becomes_outcomes_and_the_text_of_the_failures():
    read = tests.tests(PYTEST + FAILED)
    assert [(file, how) for file, _, how in read] == [
        ("tests/engine/test_gpu.py", "PASSED"),
        ("tests/engine/test_gpu.py", "FAILED"),
        ("tests/run/test_gpu.py", "SKIPPED"),
    ]
    assert read[1][1] == "test_b[a b]"
    assert tests.failures(PYTEST + FAILED) == FAILED
    assert tests.failures(PYTEST) == ""
    assert tests.failures(PYTEST + CRASH).startswith("Fatal Python error: Segmentation")


def job(tmp_path, *, left=60.0, **more):
    record = Record(tmp_path / "stage.json", {"stage": "s"})
    return Job(record, tmp_path, tmp_path / "scratch", time.monotonic() + left, True, None, **more)


def test_after_a_crash_the_other_files_of_tests_get_a_new_process(monkeypatch, tmp_path):
    """A device-side assert in one test would fail all that come after it in its process."""
    files = ["tests/engine/test_gpu.py", "tests/run/test_gpu.py", "tests/z/test_z.py"]
    monkeypatch.setattr(tests, "TOY", files)
    asked = []
    outputs = [(-11, PYTEST + CRASH), (0, "tests/z/test_z.py::test_e PASSED  [100%]\n")]

    def python(job, words, *, log):
        asked.append([word for word in words if word.endswith(".py")])
        status, text = outputs[len(asked) - 1]
        return child.Finished(status, 1.0, False, text)

    monkeypatch.setattr(tests, "python", python)
    given = job(tmp_path)
    tests.measure(given)
    assert asked == [files, files[2:]]
    assert given.record.found["counts"] == {"passed": 2, "failed": 1, "skipped": 1}
    assert "Segmentation fault" in given.record.found["failures"]


def test_every_file_with_a_gpu_test_is_run():
    found = tests._files()
    assert "tests/engine/test_gpu.py" in found
    assert "tests/loaders/test_loaders.py" in found
    assert "tests/test_readme.py" not in found


def test_a_command_of_a_stage_is_interrupted_before_the_stages_own_end(monkeypatch, tmp_path):
    monkeypatch.setattr(child, "PATIENCE", 0.3)
    code = "import time\nprint('on', flush=True)\ntry: time.sleep(30)\nfinally: print('off')"
    done = child.python(job(tmp_path, left=1.0), ["-c", code], log=tmp_path / "log")
    assert done.interrupted
    assert done.text.startswith("on\noff")
    assert done.seconds < 5
    with pytest.raises(RuntimeError, match="exit status 2: fasttrain: error: --lr"):
        child.fasttrain(job(tmp_path), ["--lr", "none"], log=tmp_path / "log")


def test_a_provider_that_fails_loses_its_row_and_the_others_keep_theirs(tmp_path):
    given, calls = job(tmp_path), []

    def breaks_later():
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("CUDA error: misaligned address\nmore")
        return 8

    def missing():
        raise ImportError("no apex here")

    makers = {
        "slow": lambda: lambda: time.sleep(0.02) or 8,
        "fast": lambda: lambda: time.sleep(0.002) or 8,
        "later": lambda: breaks_later,
        "never": missing,
    }
    found = turns.rates(makers, given, rounds=5, peer="slow", what="step")
    assert set(found) == {"slow", "fast"}
    assert found["fast"]["times_slow"] > 2
    assert found["slow"]["n"] == 5
    assert found["slow"]["first_step_seconds"] >= 0.02
    assert given.record.found["notes"] == [
        "step, never: left out: ImportError: no apex here",
        "step, later: left out: RuntimeError: CUDA error: misaligned address",
    ]


class Clock:
    """Seconds that pass only where they are said to; a job that has `left` of them."""

    def __init__(self, tmp_path, left):
        self.left, record = left, Record(tmp_path / "stage.json", {"stage": "s"})
        self.job = SimpleNamespace(record=record, left=lambda: self.left, toy=False)

    def monotonic(self):
        return -self.left

    def spend(self, seconds):
        self.left -= seconds
        return 8


def test_rates_end_with_the_time_of_their_stage(tmp_path):
    clock = Clock(tmp_path, 2.5)
    given = clock.job
    makers = {name: lambda: lambda: clock.spend(1) for name in ("one", "two", "three", "4")}
    found = turns.rates(makers, given, rounds=50, peer="one", what="step")
    assert set(found) == {"one", "two", "three"}
    assert found["one"]["n"] == 1
    assert given.record.found["notes"] == ["step, 4: no time left"]


def test_a_gpu_that_is_gone_fails_a_stage_before_it_measures_a_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = {"stage": "steps", "out": str(tmp_path), "scratch": str(tmp_path), "toy": False}
    asked |= {"ends": time.monotonic() + 60, "data_dir": None, "fail": None}
    assert stage.run(asked) == 1
    found = json.loads(result_path(tmp_path, "steps").read_text())
    assert found["state"] == "failed"
    assert found["why"].startswith("RuntimeError: no CUDA device is available to torch")


@pytest.fixture
def published(monkeypatch):
    """Two halves that stand for CIFAR-10's in an archive, and nothing in the user's cache."""
    random = np.random.default_rng(0)
    halves = tuple(
        Split(random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 10)
        for count in (40, 20)
    )
    monkeypatch.setattr(cifar10, "DIGESTS", cache.digests_of(halves))
    return halves


def test_images_that_were_brought_are_read_once_and_cached_for_all_stages(
    monkeypatch, tmp_path, published
):
    reads = []
    monkeypatch.setattr(cifar10.decode, "read_any", lambda path: reads.append(path) or published)
    given = job(tmp_path)._replace(data_dir=tmp_path / "archive.tar.gz")
    assert images.flags(given) == ["--cache-dir", str(tmp_path / "scratch" / "cache")]
    assert images.flags(given) == ["--cache-dir", str(tmp_path / "scratch" / "cache")]
    assert reads == [tmp_path / "archive.tar.gz"]
    found = cifar10.load(folder=cifar10.where(tmp_path / "scratch" / "cache"))
    assert (found[1].images == published[1].images).all()
    assert given.record.found["images"] == "cifar10"


def test_without_images_the_runs_take_synthetic_ones_and_say_so(monkeypatch, tmp_path, published):
    monkeypatch.setattr(cache.platformdirs, "user_cache_path", lambda *a, **o: tmp_path / "none")
    given = job(tmp_path)
    assert images.flags(given) == ["--dataset", "synthetic"]
    assert given.record.found["images"] == "synthetic"
    assert "--data-dir" in given.record.found["notes"][0]
    with pytest.raises(DataError, match="Name an archive"):
        images.real(given)
    with pytest.raises(LeftOut, match="Name an archive"):
        sprint.measure(given._replace(toy=False))


def test_the_peer_of_the_sprint_trains_on_the_same_images_without_a_download(
    monkeypatch, tmp_path, published
):
    """Its train94 returns the network, not an accuracy, and reads files of its own."""
    cache_folder = cifar10.where(tmp_path / "cache")
    cache_folder.mkdir(parents=True)
    scratch = tmp_path / "writing"
    scratch.mkdir()
    cache.write(cache_folder, published, scratch=scratch)
    read = []

    class Loader:
        def __init__(self, path, train=True, **options):
            found = torch.load(os.path.join(path, "train.pt" if train else "test.pt"))
            read.append((found["images"].numpy(), found["labels"].numpy(), options))

    def train94(loader, verbose):
        assert Path("cifar10/test.pt").exists(), "it looks in the current folder"
        return "network"

    fake = SimpleNamespace(
        warmup94=lambda: None,
        CifarLoader=Loader,
        train94=train94,
        evaluate=lambda model, loader, level: {0: 0.94, 2: 0.95}[level],
    )
    monkeypatch.setitem(sys.modules, "airbench", fake)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    here = os.getcwd()
    peer = airbench94.Airbench(tmp_path / "peer", tmp_path / "cache")
    found = peer.run()
    assert os.getcwd() == here
    assert (found["test_accuracy"], found["test_accuracy_with_all"]) == (0.94, 0.95)
    assert found["train_seconds"] > 0
    for half, (pixels, labels, _) in zip(published, read, strict=True):
        assert (pixels == half.images).all()
        assert (labels == half.labels).all()


class Seeds:
    """A stand-in for a series, which takes its time and may fail."""

    def __init__(self, clock, seconds, *, fails=False):
        self.clock, self.seconds, self.fails, self.count = clock, seconds, fails, 0

    def seed(self):
        if self.fails:
            raise RuntimeError("CUDA out of memory")
        self.count += 1
        self.clock.spend(self.seconds)


def test_as_many_seeds_are_trained_as_fit_and_a_peer_that_fails_stops_none(monkeypatch, tmp_path):
    clock = Clock(tmp_path, 55)
    given, ours, peer = clock.job, Seeds(clock, 10), Seeds(clock, 0, fails=True)
    monkeypatch.setattr(sprint, "time", clock)
    monkeypatch.setattr(sprint.images, "real", lambda job: tmp_path)
    monkeypatch.setattr(sprint, "_Series", lambda job, recipe: ours)
    monkeypatch.setattr(sprint, "_Peer", lambda job, folder: peer)
    monkeypatch.setattr(sprint, "installed", lambda name: True)
    sprint.measure(given)
    assert (ours.count, given.left()) == (5, 5)
    assert given.record.found["notes"] == ["airbench: left out: RuntimeError: CUDA out of memory"]


def measured(out, *, without=()):
    """Results as a GPU would leave them, in `out`."""
    rate = {"n": 7, "images_per_second": 120_000.0, "times_albumentations": 8.0}
    step = {"n": 12, "images_per_second": 61_000.0, "times_source": 5.0, "first_step_seconds": 1.0}
    step |= {"group": "training step, batch 128, cuda", "provider": "bf16, graph", "batch": 128}
    step |= {"amp": "bf16", "way": "graph", "median_seconds": 0.0021, "share_of_product": 0.25}
    run = {"seed": 0, "seconds_to_target": 5.0, "best_test_accuracy": 0.9412}
    run |= {"final_test_accuracy_with_flips": 0.945, "fp32_operations_to_target": 3e14}
    series = {"command": "c", "count": 1, "target": 0.94, "reached": 1, "seconds_mean": 5.0}
    series |= {"runs": [run], "recipe": {"widths": "1,2,3", "epochs": 9, "bias_rate": 75.0}}
    parts = {"train": 40.0, "compile": 9.0}
    summary = {"epochs": 50, "total_seconds": 52.4, "final_test_accuracy": 0.9431, "ledger": parts}
    peer = {"train_seconds": 3.0, "test_accuracy": 0.939, "test_accuracy_with_all": 0.9405}
    profile = {"step_seconds": 0.0029, "busy": 0.98, "data_wait": 0.002}
    epoch = {"n": 50, "epoch_seconds": 0.8, "images_per_second": 62_000.0}
    found = {
        "machine": {"rows": [{"group": "matrix product", "provider": "bf16", "flops": 7.9e14}]},
        "tests": {"rows": [{"n": 3}], "counts": {"passed": 30, "failed": 1}},
        "loaders": {
            "rows": [{"group": "loaders, an epoch, batch 128, cuda", "provider": "dali", **rate}]
        },
        "steps": {"rows": [step, {**step, "provider": "source", "way": "source"}]},
        "mission": {
            "rows": [{**epoch, "final_test_accuracy": 0.9431}],
            "summary": summary,
            "images": "cifar10",
            "choices": ["graphs on (2.9 ms a step | 4.1)"],
        },
        "sprint": {
            "rows": [
                {"provider": "fasttrain", **run},
                {"provider": "airbench", **peer},
            ],
            "series": {**series, "environment": ENVIRONMENT},
        },
        "peers": {"rows": [{"group": "epoch of 100 steps", "provider": "source", **rate}]},
        "trace": {"rows": [{"provider": "eager", "profile": profile, "file": "t.gz"}]},
    }
    for name, each in found.items():
        if name not in without:
            made = {"state": "done", "why": None, "notes": [], "rehearsal": False, **each}
            result_path(out, name).write_text(json.dumps({**made, "environment": ENVIRONMENT}))
    return tables.gathered(tables.read(out))


def test_what_a_gpu_measured_becomes_a_line_for_each_stage_and_a_table_of_steps(tmp_path):
    made = tables.markdown([measured(tmp_path, without=("peers",))])
    assert made.startswith("`make gpu`: some GPU; torch 2.13.0, commit c7f9014, 2026-11-23\n")
    for line in (
        "| what the machine is | matrix products in TFLOP/s: bf16 790.0 |",
        "| the GPU tests | 1 failed, 30 passed |",
        "| loaders alone | images/s: dali 120,000 (n = 7) |",
        "| 50 epochs with their report | 50 epochs, 94.31% at the end (n = 1); an epoch 0.80 s, "
        "62,000 images/s; in all 52.4 s (train 40.0, compile 9.0); "
        "graphs on (2.9 ms a step / 4.1) |",
        "| the sprint to 94 % | 1 of 1 seeds reached 94 % in 5.00 s (mean), with flips 94.50%; "
        "airbench 3.00 s, 93.90%, augmented 94.05% (n = 1) |",
        "| whole epochs beside the source loop and the AMP loop | *not measured* |",
        "| traces of the profiler | eager: a step of 2.90 ms, device busy 98%, data wait 0.2% "
        "(t.gz) |",
        "| 128 | bf16 | 61,000 (2.10; 25%) |  |  | 61,000 (2.10; 25%) |  |  |",
    ):
        assert line in made.splitlines(), made


def test_a_stage_that_failed_says_why_beside_what_it_measured(tmp_path):
    measured(tmp_path)
    path = result_path(tmp_path, "loaders")
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "state": "died", "why": "at /home/me/x.py: SIGKILL"}))
    made = tables.markdown([tables.gathered(tables.read(tmp_path))])
    said = "images/s: dali 120,000 (n = 7); died: at PATH: SIGKILL"
    assert f"| loaders alone | {said} |" in made
    assert tables.markdown([]) == tables.NONE


def test_kept_results_reach_the_headline_and_the_tables_of_the_documents(monkeypatch, tmp_path):
    out, kept = tmp_path / "out", tmp_path / "results"
    out.mkdir(), kept.mkdir()
    for path in [*table.RESULTS.glob("bench-*.json"), table.RESULTS / "soak.json"]:
        (kept / path.name).write_bytes(path.read_bytes())
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    pairs = [(tables.BEGIN, tables.END), (headline.BEGIN, headline.END)]
    pairs += [(table.BEGIN, table.END), (sprints.BEGIN, sprints.END)]
    (root / "README.md").write_text("\n".join(f"{begin}\nold\n{end}\n" for begin, end in pairs))
    for home in (table, headline):
        monkeypatch.setattr(home, "RESULTS", kept)
    monkeypatch.setattr(table, "ROOT", root)
    measured(out)
    tables.keep(out, "box")
    text = (root / "README.md").read_text()
    assert "| the GPU tests | 1 failed, 30 passed |" in text
    what = "`--epochs 50`: ResNet18 on CIFAR-10"
    said = "52 s in one go, with evaluation, checkpoints and report, 94.31 % (n = 1)"
    assert f"| {what} | {said} | some GPU |" in text
    assert "| `--recipe sprint` to 94 % of CIFAR-10's test images | 5 s, 94.12 % " in text
    step = "61,000 images/s, 5.00 times the plain loop (n = 12)"
    assert f"| a training step of ResNet18, batch 128 | {step} | some GPU |" in text
    assert "anything on a GPU" not in text
    assert "| training step, batch 128, 256, 512, 1024, cuda |" not in text
    assert "| augment, 1,024 images to float32 and float16, cuda |" in text, "not measured yet"
    assert "series" not in json.loads((kept / "gpu-box.json").read_text())["stages"]["sprint"]
    assert log_path(out, "steps").name == "steps.txt"
