"""environment.json describes the machine of a run, but not its user or place."""

from __future__ import annotations

import getpass
import json
import os
import platform
import socket
import subprocess
import tempfile
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import torch

import fasttrain
from fasttrain import __version__
from fasttrain.machine import environment
from fasttrain.storage import encode


@pytest.fixture(scope="module")
def described() -> dict:
    return environment.describe()


def git(folder: Path, *words: str) -> str:
    config = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *config, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_versions_and_machine_are_those_that_their_owners_state(described):
    assert described["fasttrain"]["version"] == __version__
    assert described["python"] == platform.python_version()
    assert described["torch"] == torch.__version__
    assert described["numpy"] == np.__version__
    installed = {d.name.lower(): d.version for d in metadata.distributions() if d.name}
    dali = [v for name, v in installed.items() if name.startswith("nvidia-dali-cuda")]
    assert described["dali"] == (dali[0] if dali else None)
    cpu = described["cpu"]
    assert cpu["torch_threads"] == torch.get_num_threads()
    assert cpu["capability"] == torch.backends.cpu.get_cpu_capability()
    assert 1 <= cpu["physical_cores"] <= os.cpu_count()
    assert cpu["name"]
    assert (described["gpu"] is None) == (not torch.cuda.is_available())


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="reads Linux's own account")
def test_memory_and_bf16_agree_with_the_kernel(described):
    total = next(x for x in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in x)
    assert described["cpu"]["memory_gib"] == pytest.approx(int(total.split()[1]) / 2**20, abs=0.2)
    flags = Path("/proc/cpuinfo").read_text().split()
    assert described["cpu"]["bf16"] == bool({"avx512_bf16", "amx_bf16", "amx_tile"} & {*flags})


def test_the_date_is_now_in_utc(described):
    stated = datetime.fromisoformat(described["date"])
    assert stated.utcoffset().total_seconds() == 0
    assert abs((datetime.now(timezone.utc) - stated).total_seconds()) < 60


def test_nothing_in_it_names_the_person_the_machine_or_a_folder(monkeypatch):
    monkeypatch.setenv("FASTTRAIN_CANARY", "a-secret-of-the-environment")
    described = environment.describe()
    text = encode.to_json(described)
    assert json.loads(text) == described
    secrets = [getpass.getuser(), str(Path.home()), socket.gethostname(), os.getcwd()]
    secrets += ["a-secret-of-the-environment", str(environment.PACKAGE), tempfile.gettempdir()]
    assert [secret for secret in secrets if secret in text] == []


def test_the_commit_is_known_only_in_fasttrains_own_checkout(tmp_path):
    package = tmp_path / "checkout" / "fasttrain"
    package.mkdir(parents=True)
    unknown = {"commit": None, "modified": None}
    assert environment._git(package) == unknown, "no repository"
    assert Path(fasttrain.__file__).resolve().parent == environment.PACKAGE
    git(package.parent, "init")
    assert environment._git(package) == unknown, "no commit"
    (package / "a.py").write_text("a = 1\n")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-m", "a")
    commit = git(package.parent, "rev-parse", "HEAD")
    assert environment._git(package) == {"commit": commit, "modified": False}
    (package / "a.py").write_text("a = 2\n")
    assert environment._git(package) == {"commit": commit, "modified": True}
    inside = package.parent / ".venv" / "site-packages" / "fasttrain"
    inside.mkdir(parents=True)
    assert environment._git(inside) == unknown, "installed into another project"


def test_the_variables_of_a_git_hook_do_not_answer_for_another_repository(tmp_path, monkeypatch):
    package, other = tmp_path / "mine" / "fasttrain", tmp_path / "other"
    for folder in (package, other):
        folder.mkdir(parents=True)
    git(other, "init")
    git(other, "commit", "--allow-empty", "-m", "a")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(package.parent))
    assert environment._git(package) == {"commit": None, "modified": None}


def test_a_missing_or_hanging_git_is_an_unknown_commit(tmp_path, monkeypatch):
    program = tmp_path / "git"
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    began = perf_counter()
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert environment._git(environment.PACKAGE)["commit"] is None
    assert perf_counter() - began < 5
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert environment._git(environment.PACKAGE)["commit"] is None


def test_describing_costs_less_than_300_milliseconds():
    def seconds() -> float:
        began = perf_counter()
        environment.describe()
        return perf_counter() - began

    assert any(seconds() < 0.3 for _ in range(10))
