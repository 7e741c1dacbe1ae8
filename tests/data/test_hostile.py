"""Malicious files run and write nothing: a canary file and an audit hook detect it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fasttrain.recipe.recipe import Recipe
from tests import hostile

ROOT = Path(__file__).parents[2]
RECIPE = Recipe(dataset="synthetic", train_limit=64, test_limit=32, batch_size=32, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write a run of malicious checkpoints, and a folder of malicious archives."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "archives").mkdir()
    (folder / "run" / "recipe.json").write_text(json.dumps(RECIPE.as_dict()))
    for name, data in hostile.checkpoints(folder / "canary").items():
        (folder / "run" / "checkpoints" / f"{name}.pt").write_bytes(hostile.signed(data))
    for name, data in hostile.archives(folder / "canary").items():
        (folder / "archives" / f"{name.replace('/', '|')}.gz").write_bytes(data)
    return folder


def opened(folder, *arguments):
    """Open every file in another process; return the results and its stderr."""
    done = subprocess.run(
        [sys.executable, "-B", "-m", "tests.hostile", str(folder), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr.splitlines()


@pytest.fixture(scope="module")
def answers(folder):
    results, lines = opened(folder)
    return results, lines, sorted(path.name for path in folder.iterdir())


def test_every_hostile_file_is_refused_with_5_or_4_and_in_a_line(answers):
    results, lines, _ = answers
    assert len(results) > 60
    for name, (code, _, _) in results.items():
        assert code in (4, 5), name
    assert [line for line in lines if not line.startswith("fasttrain: error: ")] == []
    assert not any("Traceback" in line for line in lines)


def test_no_code_of_theirs_runs_and_nothing_is_written_outside(answers):
    for name, (_, seen, canary) in answers[0].items():
        assert (seen, canary) == ([], False), name
    assert answers[2] == ["archives", "run"]


def test_the_same_files_harm_a_program_that_trusts_them_and_the_hook_sees_it(folder, answers):
    """The control: each payload works, and the audit hook sees it."""
    results, _ = opened(folder, "trusting")
    harmful = [name for name in results if name.startswith(("run ", "write "))]
    assert len(harmful) > 35
    for name in harmful:
        _, seen, canary = results[name]
        assert canary, name
        assert seen, name
