"""Signals in every phase of a real process: the right exit status, one line, nothing lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import Child, flags, one_line
from tiny_runs import end, same, train

from fasttrain.storage import checkpoint

PHASES = ["data", "lr finder", "compile", "epoch", "save", "eval", "summary", "analysis"]
SAVES = ("epoch", "save", "eval", "summary", "analysis")
CHANGES = {"lr finder": {"lr": "auto"}, "compile": {"compile": "on"}}
soak = pytest.mark.soak
pytestmark = [pytest.mark.usefixtures("tiny"), pytest.mark.slow]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """The end of an undisturbed run with the given changes, made once each."""
    made = {}

    def of(**changes):
        key = str(changes)
        if key not in made:
            path = tmp_path_factory.mktemp("runs") / "whole"
            ended = Child(path.with_suffix(".log"), flags(path, **changes)).ended()
            assert (ended.status, ended.err) == (0, "")
            made[key] = end(path)
        return made[key]

    return of


# In the quick tests one signal in every phase, and every signal in one phase.
ANY_PHASE = [
    pytest.param(phase, number, marks=[] if number == signal.SIGTERM or phase == "save" else soak)
    for phase in PHASES
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
]


@pytest.mark.parametrize(("phase", "number"), ANY_PHASE)
def test_a_signal_in_any_phase_ends_the_run_within_seconds_and_it_goes_on_bitwise(
    phase, number, tmp_path, ends
):
    path, changes = tmp_path / "a", CHANGES.get(phase, {})
    child = Child(tmp_path / "log", flags(path, **changes), phase=phase).reached()
    ended = child.send(number).ended()
    assert ended.status == 128 + number
    assert ended.seconds < 10
    name, saved = signal.Signals(number).name, phase in SAVES
    what = "saved" if saved else "nothing to save yet"
    advice = f"Resume with: python -m fasttrain --resume {path}"
    assert one_line(ended.err) == f"fasttrain: error: stopped by {name}: {what}. {advice}"
    assert (path / "checkpoints" / "last.pt").exists() == saved
    changes = {"compile": "off"} if phase == "compile" else changes
    ended = Child(tmp_path / "log", flags(path, **changes)).ended()
    assert (ended.status, ended.err) == (0, "")
    assert same(end(path), ends(**changes))


def test_more_signals_during_a_save_neither_harm_it_nor_change_the_exit_status(tmp_path, ends):
    path = tmp_path / "a"
    child = Child(tmp_path / "log", flags(path), phase="save").reached()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        child.send(number)
        time.sleep(0.05)  # signals that are pending together arrive in the order of their numbers
    ended = child.ended()
    assert ended.status == 143
    assert "stopped by SIGTERM: saved" in one_line(ended.err)
    assert checkpoint.load(path / "checkpoints" / "last.pt")["progress"][0] in (1, 2)
    train(path)
    assert same(end(path), ends())


def test_a_signal_after_the_last_line_does_not_spoil_the_exit_status(tmp_path):
    path = tmp_path / "a"
    child = Child(tmp_path / "log", flags(path), phase="end").reached()
    assert (path / "report.html").exists()
    ended = child.send(signal.SIGTERM).ended()
    assert ended.status == 143, "until the signals are ignored it is stopped"
    assert one_line(ended.err) == "fasttrain: error: stopped by SIGTERM"


def test_what_nohup_ignores_stays_ignored(tmp_path):
    command = [sys.executable, "-c", IGNORING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "still here\n")


IGNORING = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from fasttrain.parallel import signals
signals.end_at_once()
with signals.Signals() as here:
    os.kill(os.getpid(), signal.SIGHUP)
    here.check()
print("still here")
"""

# Seconds after fasttrain's first line: while torch is imported, and around its end.
MOMENTS = [0.0, 0.6, *(pytest.param(0.1 * k, marks=soak) for k in range(1, 30))]


@pytest.mark.parametrize("after", MOMENTS)
def test_a_signal_while_torch_is_imported_ends_at_once_without_a_traceback(
    after, tmp_path, record_property
):
    number = signal.SIGINT if round(after * 10) % 2 else signal.SIGTERM
    command = [sys.executable, "-m", "fasttrain", *flags(tmp_path / "a")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until_it_listens(process.pid)
    time.sleep(after)
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert f"stopped by {signal.Signals(number).name}" in one_line(err)
    record_property("signals that stopped a run within seconds", 1)


def until_it_listens(pid: int) -> None:
    """Wait until a process has a handler for SIGTERM: before that Python itself has not started."""
    handled, until = 0, time.monotonic() + 30
    while not handled >> (signal.SIGTERM - 1) & 1:
        assert time.monotonic() < until
        status = Path(f"/proc/{pid}/status").read_text()
        handled = int(re.search(r"SigCgt:\s*([0-9a-f]+)", status)[1], 16)


def test_standard_output_that_is_closed_does_not_end_training(tmp_path, ends):
    out, into = os.pipe()
    child = Child(tmp_path / "log", flags(tmp_path / "a"), phase="epoch", stdout=into)
    os.close(into)
    with os.fdopen(out) as pipe:
        assert pipe.readline()
        child.reached()
    ended = child.ended()
    assert ended.status == 0
    reported = "fasttrain: standard output (Broken pipe): closed. fasttrain continues without it.\n"
    assert ended.err == reported
    assert same(end(tmp_path / "a"), ends())


@pytest.mark.parametrize("redirection", ["| head -1", ">/dev/full", ">&-", ">&- 2>&- <&-"])
def test_help_and_version_survive_any_standard_output(redirection):
    script = f"set -o pipefail; {sys.executable} -m fasttrain --help {redirection}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert not re.search("Traceback|Error|ignored", done.stderr)


REAL = [
    ("range test: ", {"lr": "auto"}, 0.5),
    ("  loader ", {"compile": "on"}, 3.0),
    ("    1  ", {"epochs": 1}, 0.7),
]


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("line", "changes", "after"), REAL, ids=["range test", "compile", "report"]
)
def test_the_real_network_is_stopped_in_its_long_phases(
    line, changes, after, number, tmp_path, record_property
):
    """ResNet18, torch's compiler, the report: in a process group, as a terminal signals it."""
    path = tmp_path / "a"
    process = subprocess.Popen(
        [sys.executable, "-m", "fasttrain", *flags(path, **changes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert any(said.startswith(line) or line in said for said in process.stdout)
    time.sleep(after)
    assert process.poll() is None
    began = time.monotonic()
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert time.monotonic() - began < 10
    assert f"stopped by {signal.Signals(number).name}: " in one_line(err)
    record_property("signals that stopped a run within seconds", 1)


@pytest.mark.soak
def test_a_real_pipe_that_closes_after_one_line_does_not_end_a_real_run(tmp_path):
    words = " ".join(flags(tmp_path / "a", epochs=1))
    script = f"set -o pipefail; {sys.executable} -m fasttrain {words} | head -1"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "nothing to resume: starting a new run\n")
    assert done.stderr.startswith("fasttrain: standard output (Broken pipe): closed.")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "a" / "report.html").exists()
