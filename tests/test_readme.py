"""The README's claims that a machine can check."""

import json
import re
from pathlib import Path

import pytest
import torch

import fasttrain
from fasttrain.flags import COMMANDS
from tests.conftest import tiny_loader, tiny_model

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_python_lines_run(tiny_splits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
    code = code.replace('"cuda"', '"cpu"').replace("epochs=50", "epochs=1")
    trained = []
    monkeypatch.setattr(fasttrain, "train", trained.append)  # its own tests run it
    split, test = tiny_splits
    names = {"model": tiny_model(), "images": split.images, "labels": split.labels}
    names |= {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    names["test"] = tiny_loader(test, training=False)
    exec(code, names)
    assert trained == [fasttrain.Recipe(epochs=5)]
    assert names["rows"][0].test_accuracy > 0
    assert isinstance(names["step"].lr, torch.Tensor)


def test_it_names_every_command():
    for command in COMMANDS:
        assert re.search(rf"fasttrain \[?{command}\b", TEXT), command


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", TEXT))
def test_its_links_and_pictures_are_there(link):
    assert link.startswith("http") or (ROOT / link).exists()


def test_every_promise_names_a_test_that_exists():
    section = TEXT.split("## What survives")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    rows = [row for row in rows if not row.startswith("| --- ")]
    assert len(rows) >= 20
    for row in rows:
        named = re.findall(r"`(test_\w+)::(test_\w+)`", row)
        assert named, row
        for module, test in named:
            code = (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8")
            assert re.search(rf"^def {test}\(", code, re.MULTILINE), f"{module}::{test}"


def test_the_soaks_counts_are_kept_with_their_machine_and_commit():
    found = json.loads((ROOT / "benchmarks" / "results" / "soak.json").read_text())
    assert found["failed"] == []
    assert found["passed"]["kills"] >= 200
    assert found["passed"]["flipped bits and truncations"] >= 3000
    assert found["passed"]["crash points of a whole run"] >= 500
    assert found["passed"]["argument lists"] >= 10_000
    assert found["environment"]["fasttrain"]["commit"]
