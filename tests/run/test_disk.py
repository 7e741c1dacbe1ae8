"""A disk that is full, read-only or another's: exit 6, one line, and the old checkpoint intact."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_runs
from processes import Child, flags, one_line
from tiny_runs import end, same, small, train

import fasttrain
from fasttrain.errors import Stopped
from fasttrain.run.rundir import RunDir
from tests.run.test_train import Interrupting

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[1]
NAMESPACE = (
    shutil.which("unshare")
    and not subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    ).returncode
)
namespace = pytest.mark.skipif(not NAMESPACE, reason="this system lets nobody mount a tmpfs")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with `whole`, a finished run, and `half`, stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("runs")
    with tiny_runs.shrunk():
        train(folder / "whole")
        with pytest.raises(Stopped):
            fasttrain.train(small(), out=folder / "half", display=Interrupting(6))
    return folder


def in_a_namespace(what: str, folder: Path) -> list[dict]:
    script = ["unshare", "-rm", sys.executable, str(HERE / "in_a_namespace.py"), str(folder), what]
    path = os.pathsep.join([str(HERE.parent), str(HERE)])
    done = subprocess.run(
        script, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(
    "part",
    [pytest.param(n, marks=[] if n in (0, 7, 13, 19) else pytest.mark.soak) for n in range(20)],
)
def test_a_file_limit_of_any_size_leaves_the_old_checkpoint_intact(part, runs, tmp_path):
    """`ulimit -f` at 20 sizes, up to just too little for last.pt."""
    path = tmp_path / "a"
    shutil.copytree(runs / "half", path)
    kept = [path / "checkpoints" / name for name in ("last.pt", "previous.pt")]
    before = [file.read_bytes() for file in kept]
    limit = 2048 + (len(before[0]) - 2048) * part // 20
    ended = Child(tmp_path / "log", flags(path), limit=limit).ended()
    assert ended.status == 6
    said = one_line(ended.err)
    found = re.search(r"File too large, ([\d,]+) bytes needed, ([\d,]+) free\. Make room", said)
    assert int(found[1].replace(",", "")) > limit, said
    assert [file.read_bytes() for file in kept] == before
    assert Child(tmp_path / "log", flags(path)).ended().status == 0
    assert same(end(path), end(runs / "whole"))


@namespace
def test_a_disk_that_fills_up_at_twenty_moments_leaves_a_checkpoint_to_go_on_from(runs, tmp_path):
    """A real tmpfs with room for 0 to 1.9 checkpoints: nearly every kind of file hits its end."""
    for name in ("half", "whole"):
        shutil.copytree(runs / name, tmp_path / name)
    found = in_a_namespace("full", tmp_path)
    assert len(found) == 20
    said = r"No space left on device, ([\d,]+ bytes needed, )?[\d,]+ free\. Make room"
    for case in found:
        assert case["status"] in (0, 6), case
        assert case["notes"] == [], "no damaged file was left"
        assert case["progress"] is not None
        assert case["again"] == 0
        assert case["same"]
        if case["status"] == 6:
            assert re.search(said, one_line(case["err"])), case
    refused = [case["status"] == 6 for case in found]
    assert sum(refused) >= 10
    assert all(case["kept"] for case in found[:5]), "too little for anything"


@namespace
def test_a_read_only_folder_is_exit_6_before_data_or_device_are_touched(runs, tmp_path):
    for name in ("half", "whole"):
        shutil.copytree(runs / name, tmp_path / name)
    new, half, whole = in_a_namespace("readonly", tmp_path)
    for case in (new, half):
        assert case["status"] == 6
        assert "Read-only file system" in one_line(case["err"])
        assert case["touched"] == []
    assert (whole["status"], whole["err"]) == (0, ""), "a finished run needs nothing written"


IN_USE = """
import sys
from fasttrain.cli import main as cli
status = cli.main(sys.argv[1:])
print(status, "torch" in sys.modules)
"""


@pytest.mark.parametrize("how", ["--resume", "--overwrite"])
def test_a_folder_that_a_live_run_uses_is_refused_with_its_pid_before_torch_is_imported(
    how, runs, tmp_path
):
    path = tmp_path / "a"
    shutil.copytree(runs / "half", path)
    with RunDir.resume(path):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", IN_USE, how, "--out", str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        seconds = time.perf_counter() - began
    assert done.stdout == "6 False\n"
    who = f"is in use by pid {os.getpid()} on {socket.gethostname()} since "
    assert who in one_line(done.stderr)
    assert seconds < 2


def test_a_folder_that_holds_a_run_or_a_file_in_the_way_is_refused_before_torch_too(runs, tmp_path):
    (tmp_path / "file").write_text("mine")
    for path, said in ((runs / "half", "already holds a run"), (tmp_path / "file", "file")):
        done = subprocess.run(
            [sys.executable, "-c", IN_USE, "--out", str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout == "6 False\n"
        assert said in one_line(done.stderr)
