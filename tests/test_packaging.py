"""Packaging, citation, container and CI agree with each other."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools
import yaml

import fasttrain
from fasttrain.cli.flags import read
from fasttrain.recipe.recipe import Recipe, make

ROOT = Path(__file__).parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture
def packaged(monkeypatch) -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: found.update(options))
    runpy.run_path(str(ROOT / "setup.py"))
    return found


def test_the_version_is_the_same_everywhere(packaged):
    version = fasttrain.__version__
    assert packaged["version"] == version
    assert yaml.safe_load(text("CITATION.cff"))["version"] == version
    headings = re.findall(r"^## (.*)", text("CHANGELOG.md"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", version]


def test_the_citation_has_what_the_format_asks_for(packaged):
    found = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(found)
    assert found["authors"] == [{"name": packaged["author"]}]
    assert found["license"] == packaged["license"]


def test_a_package_index_shows_a_readme_without_links_that_lead_nowhere(packaged):
    shown = packaged["long_description"]
    assert packaged["long_description_content_type"] == "text/markdown"
    assert re.findall(r"\]\((?!https:)", shown) == []
    assert "<!--" not in shown
    for kept in (
        "# fasttrain",
        "| `--recipe sprint` to ",
        "what was tried and failed",
        "BSD-3-Clause",
    ):
        assert kept in shown, kept


def test_every_extra_that_the_tree_pins_is_there(packaged):
    pins = {name.lower() for name in re.findall(r"^([\w.-]+)", text("requirements.txt"), re.M)}
    for extra, wanted in packaged["extras_require"].items():
        for name in wanted:
            assert re.match(r"[\w.-]+", name)[0].lower() in pins, (extra, name)


def test_ci_runs_every_python_that_the_package_names(packaged):
    jobs = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]
    named = {
        line.rpartition(" ")[2] for line in packaged["classifiers"] if " :: Python :: 3." in line
    }
    assert set(jobs["linux"]["strategy"]["matrix"]["python"]) == named
    assert min(named, key=lambda minor: int(minor[2:])) == packaged["python_requires"][2:]
    assert {"run": ".ci/run"} in jobs["linux"]["steps"]
    elsewhere = jobs["elsewhere"]
    assert elsewhere["strategy"]["matrix"]["system"] == ["macos-latest", "windows-latest"]
    assert elsewhere["steps"][-1]["run"] == 'python -m pytest -m "not slow"'


def test_what_runs_before_a_commit_is_what_make_check_runs():
    (local,) = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    hooks = [hook["entry"].replace(" --force-exclude", "") for hook in local["hooks"]]
    checked = re.findall(r"\$\(RUN\) (-m (?:ruff|mypy).*)", text("Makefile"))
    assert hooks == [f"python {line}".removesuffix(" .") for line in checked]


def test_the_containers_default_command_is_the_mission():
    lines = text("Dockerfile").replace("\\\n", " ").splitlines()
    (command,) = (json.loads(line[4:]) for line in lines if line.startswith("CMD "))
    assert command[:3] == ["python", "-m", "fasttrain"]
    name, _, given = read(command[3:])
    assert name == "train"
    assert make(given) == Recipe()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert {"fasttrain", "kernels", "setup.py", "requirements.txt"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert "README.md" in copied  # setup.py reads it


def test_without_what_is_slow_neither_the_soak_nor_what_needs_linux_is_left():
    named = ("disk", "fuzzed_arguments", "kills", "signals", "whole_run")
    files = [str(*(ROOT / "tests").rglob(f"test_{name}.py")) for name in named]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-m", "not slow", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    left = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    assert {Path(name).name for name in left} == {"test_fuzzed_arguments.py", "test_whole_run.py"}
    assert "new_seed" not in done.stdout  # the soak's ten thousand argument lists
