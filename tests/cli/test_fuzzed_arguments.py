"""Random argument lists end with status 0 or 2, in one line, at once and without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fasttrain.cli import main as cli
from fasttrain.errors import CheckpointError, UsageError
from tests import fuzzed_arguments

ROOT = Path(__file__).parents[2]


def fuzz(*arguments, before="pass"):
    """Run the program of `fuzzed_arguments`, in a process without torch."""
    code = f"import sys; {before}; from tests.fuzzed_arguments import run; import json; "
    code += f"print(json.dumps(run({', '.join(map(str, arguments))})))"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def counts(done):
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["exit 0"] + found["exit 2"] == found["lists"]
    assert min(found["exit 0"], found["exit 2"]) > 0.1 * found["lists"]
    assert found["slowest"] < 1
    return found


def test_a_thousand_argument_lists():
    assert counts(fuzz(1000))["lists"] == 1000


@pytest.mark.soak
def test_ten_thousand_argument_lists_of_a_new_seed(record_property):
    import secrets

    record_property("argument lists", counts(fuzz(10_000, secrets.randbits(32)))["lists"])


def test_the_check_sees_an_imported_torch():
    assert "imported: ['torch']" in fuzz(3, before="sys.modules['torch'] = sys").stderr


@pytest.mark.parametrize(
    "problem", [ValueError("x"), CheckpointError("x"), UsageError("x\ny"), UsageError("x" * 500)]
)
def test_the_check_sees_tracebacks_other_codes_and_lines_that_are_none(monkeypatch, problem):
    def read(arguments):
        raise problem

    fuzzed_arguments.check(["--nosuch"])
    monkeypatch.setattr(cli, "read", read)
    with pytest.raises((AssertionError, ValueError)):
        fuzzed_arguments.check(["--nosuch"])


@pytest.mark.parametrize("arguments", [["--lr", "x" * 100_000], ["--out", "a" * 300], ["\udc80"]])
def test_what_the_fuzzing_found_once(arguments):
    assert fuzzed_arguments.check(arguments)[0] == 2
