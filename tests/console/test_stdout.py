"""Characters that the output's encoding lacks, and values that need quoting in a shell."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import SMALL, end, small

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.console.stdout import BrokenPipeSafe, print_error
from fasttrain.errors import Stopped
from fasttrain.storage.encode import for_shell
from tests.run.test_train import Interrupting

pytestmark = pytest.mark.usefixtures("tiny")
WORDS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
NAMES = ["прогон", "läufe", "走る", "l\udce4ufe", "🏃 a"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_whatever_its_output_can_express(name, encoding, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for stream in ("stdout", "stderr"):
        made = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
        monkeypatch.setattr(sys, stream, made)
    assert cli.main([*WORDS, "--out", name]) == 0
    assert len(end(Path(name))["rows"]) == 2
    said = sys.stdout.buffer.getvalue().decode(encoding)
    assert name.encode(encoding, "backslashreplace").decode(encoding) in said
    assert cli.main([*WORDS, "--out", name]) == 6
    reported = sys.stderr.buffer.getvalue().decode(encoding)
    assert reported.startswith("fasttrain: error: ")
    assert reported.count("\n") == 1
    assert "already holds a run" in reported
    found = json.loads((tmp_path / name / "environment.json").read_text(encoding="utf-8"))
    assert shlex.split(found["command"])[-2:] == ["--out", name]


def test_the_strict_stream_itself_raises():
    """The control: printing the text above fails without the escapes."""
    strict = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    with pytest.raises(UnicodeEncodeError):
        strict.write("прогон")
    BrokenPipeSafe(strict).write("прогон\n")
    assert strict.buffer.getvalue() == b"\\u043f\\u0440\\u043e\\u0433\\u043e\\u043d\n"


def test_a_line_on_a_stderr_of_any_encoding_is_not_lost(monkeypatch):
    made = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stderr", made)
    print_error("fasttrain: error: läufe")
    assert made.buffer.getvalue() == b"fasttrain: error: l\\xe4ufe\n"


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii output", "ascii locale"],
)
def test_a_process_of_its_own_prints_escapes_too(environment, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fasttrain", "compare", "прогон", "прогон", "--out", "ü.html"],
        capture_output=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={**os.environ, **environment},
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"fasttrain: error: run (\\u")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("name", ["my run", "it's", "$HOME", "a;b", "-x", "läufe", "plain", "~"])
def test_what_is_advised_can_be_typed_into_a_shell_as_it_stands(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stopped) as caught:
        fasttrain.train(small(), out=Path(name), display=Interrupting(5))
    words = shlex.split(str(caught.value).partition("Resume with: ")[2])
    assert words[:3] == ["python", "-m", "fasttrain"]
    assert cli.main(words[3:]) == 0
    assert len(end(tmp_path / name)["rows"]) == 2
    echoed = subprocess.run(
        ["sh", "-c", f"printf %s {for_shell(Path(name))}"], capture_output=True, check=True
    )
    assert Path(os.fsdecode(echoed.stdout)) == Path(name)


def test_a_path_without_anything_for_a_shell_is_left_as_it_is():
    assert for_shell(Path("runs/resnet18-20261123-210500")) == "runs/resnet18-20261123-210500"
