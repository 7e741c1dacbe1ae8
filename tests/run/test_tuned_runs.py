"""Whole runs whose `auto` is measured: recorded, kept when resumed, and stopped in the middle."""

from __future__ import annotations

import io
import json
import signal

import pytest
import tiny_runs
import torch
from processes import Child, flags
from rich.console import Console
from tiny_runs import end, same, small

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.console.console import Display
from fasttrain.engine import trial, turns
from fasttrain.engine.candidates import Settings
from fasttrain.engine.tune import Tuned
from fasttrain.errors import Stopped
from fasttrain.machine import environment, remembered
from fasttrain.predict import classifier
from fasttrain.run import tuned
from fasttrain.storage import checkpoint
from tests.run.test_train import Interrupting

pytestmark = pytest.mark.usefixtures("tiny")
AUTO = {"tune": "cached", "epochs": 2}


@pytest.fixture(autouse=True)
def machine(tmp_path, tiny):
    """One that multiplies bf16, so that the rule chooses it; its cache is the test's own."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
        patches.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        patches.setattr(environment, "hardware", lambda: {"cpu": "a test"})
        yield patches


def says(word, patches):
    """Let measuring find that precision."""
    found = Tuned(Settings(word), "resident", {"amp": "measured: a test"}, {"steps": []})
    patches.setattr(tuned, "tune", lambda *args, **options: found)


def amp_of(path):
    state = checkpoint.load(path / "checkpoints" / "last.pt")
    return state["choices"]["amp"]


def log_of(**options):
    text = io.StringIO()
    fasttrain.train(display=Display(Console(file=text, width=200)), **options)
    return text.getvalue()


def stopped(path, **changes):
    with pytest.raises(Stopped):
        fasttrain.train(small(**AUTO, **changes), out=path, display=Interrupting(4))


def test_what_was_measured_is_said_and_recorded(tmp_path, machine):
    says("off", machine)
    said = log_of(recipe=small(**AUTO), out=tmp_path / "a")
    assert "\n  amp off (measured: a test)\n" in said
    recorded = json.loads((tmp_path / "a" / "environment.json").read_text())
    assert recorded["choices"]["amp"] == {"value": "off", "why": "measured: a test"}
    assert recorded["choices"]["loader"] == {"value": "resident", "why": "requested"}
    assert recorded["measured"] == {"steps": []}
    assert amp_of(tmp_path / "a") == "off"
    best = checkpoint.load(tmp_path / "a" / "checkpoints" / "best.pt")
    assert best["choices"]["amp"] == "off"


def test_a_measured_run_is_the_one_that_asks_for_what_was_measured(tmp_path, machine):
    fasttrain.train(small(amp="off"), out=tmp_path / "asked")
    says("off", machine)
    fasttrain.train(small(**AUTO), out=tmp_path / "measured")
    assert same(end(tmp_path / "measured"), end(tmp_path / "asked"))


def test_a_resumed_run_keeps_its_choices_whatever_would_be_measured_now(tmp_path, machine):
    says("off", machine)
    fasttrain.train(small(**AUTO), out=tmp_path / "whole")
    stopped(tmp_path / "a")
    says("bf16", machine)
    said = log_of(recipe=small(**AUTO), continued=tmp_path / "a")
    assert "\n  amp off (as the run began)\n" in said
    assert same(end(tmp_path / "a"), end(tmp_path / "whole"))
    assert amp_of(tmp_path / "a") == "off"


def test_an_explicit_flag_of_a_resumed_run_wins(tmp_path, machine):
    says("off", machine)
    stopped(tmp_path / "a")
    said = log_of(recipe=small(**AUTO, amp="bf16"), continued=tmp_path / "a")
    assert "\n  amp bf16 (requested)\n" in said
    assert amp_of(tmp_path / "a") == "bf16"


def test_a_run_of_release_0_1_goes_on_by_the_rules_it_began_with(tmp_path, machine):
    says("off", machine)
    stopped(tmp_path / "a")
    file = tmp_path / "a" / "checkpoints" / "last.pt"
    state = checkpoint.load(file)
    del state["choices"], state["recipe"]["tune"], state["ledger"]["tune"]
    checkpoint.save(file, state)
    said = log_of(recipe=small(**AUTO), continued=tmp_path / "a")
    assert "\n  amp bf16 (this CPU has bf16 instructions)\n" in said
    assert "\n  graphs off (as the run began)\n" in said, "0.1 captured nothing by itself"


def test_what_another_machine_does_not_have_is_left_and_that_is_said(tmp_path, machine):
    says("bf16", machine)
    stopped(tmp_path / "a")
    machine.setattr(torch.cpu, "get_capabilities", dict)
    said = log_of(recipe=small(**AUTO), continued=tmp_path / "a")
    why = "this CPU has no bf16 instructions; the run began with bf16, which is not to be had"
    assert f"\n  amp off ({why})\n" in said


def test_predictions_are_made_in_the_precision_that_was_measured(tmp_path, machine):
    says("off", machine)
    fasttrain.train(small(**AUTO), out=tmp_path / "a")
    assert classifier.load(tmp_path / "a").recipe.amp == "off"
    machine.setattr(torch.cpu, "get_capabilities", dict)
    assert classifier.load(tmp_path / "a").recipe.amp == "off"
    says("bf16", machine)
    fasttrain.train(small(**AUTO), out=tmp_path / "b")
    assert classifier.load(tmp_path / "b").recipe.amp == "auto", "it has no bf16"


@pytest.fixture
def quick(machine):
    """Let runs of six steps be long enough to be measured."""
    machine.setattr(trial, "SHARE", 100.0)
    return machine


def test_two_starts_with_one_memory_are_one_training(tmp_path, quick):
    first = log_of(recipe=small(**AUTO), out=tmp_path / "a")
    assert "measuring what is fastest here" in first
    (kept,) = (tmp_path / "cache" / "fasttrain" / "measured").iterdir()
    quick.setattr(turns.Turns, "run", lambda self: pytest.fail("timed again"))
    again = log_of(recipe=small(**AUTO), out=tmp_path / "b")
    assert "(measured, remembered: " in again
    assert same(end(tmp_path / "a"), end(tmp_path / "b"))
    other = small(**AUTO, batch_size=8)
    with pytest.raises(pytest.fail.Exception, match="timed again"):
        fasttrain.train(other, out=tmp_path / "c")
    quick.setattr(environment, "hardware", lambda: {"cpu": "a test", "torch": "3.0"})
    with pytest.raises(pytest.fail.Exception, match="timed again"):
        fasttrain.train(small(**AUTO), out=tmp_path / "c")
    assert kept.exists()


@pytest.mark.parametrize("more", [{}, {"ema": 0.9, "mixup": 0.4, "cutmix": 1.0}], ids=len)
def test_measuring_changes_nothing_of_what_is_then_trained(tmp_path, quick, more):
    """Weights, momentum, their average, draws, dropout: all as in a run that asked for it."""
    fasttrain.train(small(**AUTO, **more, lr="auto"), out=tmp_path / "a")
    amp = amp_of(tmp_path / "a")
    fasttrain.train(small(**more, lr="auto", amp=amp), out=tmp_path / "b")
    assert same(end(tmp_path / "a"), end(tmp_path / "b"))


def test_a_named_cache_folder_has_it(tmp_path, quick):
    fasttrain.train(small(**AUTO, cache_dir=tmp_path / "mine"), out=tmp_path / "a")
    assert len(list((tmp_path / "mine" / "measured").iterdir())) == 1
    assert not (tmp_path / "cache" / "fasttrain").exists()


def test_off_never_measures(tmp_path, quick):
    quick.setattr(tuned, "tune", lambda *args, **options: pytest.fail("measured"))
    fasttrain.train(small(), out=tmp_path / "a")
    assert amp_of(tmp_path / "a") == "bf16"


def test_the_range_test_alone_measures_as_a_run_does(quick, capsys, tmp_path):
    assert cli.main(["find-lr", *flags("", **AUTO)[:-3]]) == 0
    assert "measuring what is fastest here" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_ends_while_it_is_measured_begins_as_if_nothing_had_been(tmp_path, number):
    tiny_runs.train(tmp_path / "whole", amp="off")
    path = tmp_path / "a"
    words = flags(path, amp="off", tune="always")
    child = Child(tmp_path / "log", words, phase="tune").reached().send(number)
    assert child.ended().status == (-9 if number == signal.SIGKILL else 143)
    assert not (path / "checkpoints" / "last.pt").exists()
    assert remembered.default_folder() is None or not remembered.default_folder().exists()
    ended = Child(tmp_path / "log", [*words, "--resume"]).ended()
    assert (ended.status, ended.err) == (0, "")
    assert same(end(path), end(tmp_path / "whole"))
