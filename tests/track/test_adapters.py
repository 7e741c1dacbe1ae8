"""What wandb and mlflow are asked for, by modules that write down how they are called.

The real ones are tested by `make trackers`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fasttrain.track.tracker import Tracker

NOTED = """
import json, os
def note(*what):
    with open("noted.jsonl", "a") as file:
        file.write(json.dumps(what) + "\\n")
"""
WANDB = (
    NOTED
    + """
class Error(Exception):
    pass

def Settings(**given):
    return given

class Run:
    dir, url = "there/files", None
    def __init__(self, id, offline):
        self.id, self.offline = id, offline
        self.summary = {}
    def define_metric(self, name, **given):
        pass
    def log(self, row):
        note("log", row)
    def finish(self, exit_code):
        note("finish", exit_code, self.summary)

def init(*, mode, id, dir, config, **given):
    places = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    note("init", mode, id, dir, config, given["resume"], given["name"], places)
    if mode != "offline":
        raise Error("api_key not configured (no-tty)")
    return Run(id or "new", True)

def teardown(code):
    pass
"""
)
MLFLOW = (
    NOTED
    + """
import sys
from types import ModuleType, SimpleNamespace as Plain
entities, exceptions = ModuleType("mlflow.entities"), ModuleType("mlflow.exceptions")
sys.modules |= {"mlflow.entities": entities, "mlflow.exceptions": exceptions}
class MlflowException(Exception):
    pass
exceptions.MlflowException = MlflowException
entities.Metric = lambda name, value, when, step: [name, value, step]
entities.Param = lambda name, value: [name, value]

def get_tracking_uri():
    return os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")

class MlflowClient:
    def __init__(self, tracking_uri):
        note("client", tracking_uri)
    def update_run(self, run, status):
        if run == "lost":
            raise MlflowException("no such run")
        note("update", run, status)
    def get_experiment_by_name(self, name):
        return None
    def create_experiment(self, name):
        return name
    def create_run(self, experiment, run_name):
        note("run", experiment, run_name)
        return Plain(info=Plain(run_id="new"))
    def log_batch(self, run, **given):
        note("batch", run, given)
    def set_terminated(self, run, status):
        note("end", run, status)
"""
)
ROW = {"epoch": 1, "lr": 0.5, "train_loss": 2.0, "first_lr": None}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with both modules, which are found before the real ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "wandb.py").write_text(WANDB)
    (tmp_path / "mlflow.py").write_text(MLFLOW)
    (tmp_path / "run").mkdir()
    return tmp_path


def tell(name: str, *, fails: bool = False) -> tuple[list, list[str]]:
    """Tell an epoch and the end, or an error; return what was noted and what was printed."""
    said: list[str] = []
    made = Tracker(name, Path("run"), log=said.append, warn=said.append)
    try:
        with made:
            made.wait()
            made.start({"lr": "auto"}, [])
            made.epoch(ROW)
            if fails:
                raise KeyboardInterrupt
            made.end({"epochs": 1, "best": 0.5, "name": "x", "ledger": {"train": 1.0}})
    except KeyboardInterrupt:
        pass
    file = Path("noted.jsonl")
    noted = [json.loads(line) for line in file.read_text().splitlines()]
    file.unlink()
    return noted, said


def test_wandb_without_a_login_is_offline_inside_the_run(here, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_NAME", "WANDB_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    (first, second, log, finish), said = tell("wandb")
    run = str(here / "run")
    assert first[1:4] == [None, None, run]
    assert second[1:7] == ["offline", None, run, {"lr": "auto"}, "allow", "run"]
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        assert second[7][name].startswith(run)
    assert log == ["log", {"epoch": 1, "lr": 0.5, "train_loss": 2.0}]
    assert finish == ["finish", 0, {"epochs": 1, "best": 0.5, "name": "x"}]
    assert said == ["tracker: wandb, offline; send it with: wandb sync there"]


def test_wandb_is_told_of_a_run_that_was_stopped_and_goes_on_with_its_id(here, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    (*_, log, finish), _ = tell("wandb", fails=True)
    assert log[0] == "log"
    assert finish[:2] == ["finish", 1]
    ((_, mode, number, *_), *rest), _ = tell("wandb")
    assert (mode, number) == ("offline", "new")
    assert [what for what, *_ in rest] == ["finish"]  # the epoch was told before


def test_mlflow_is_told_the_recipe_the_numbers_and_the_end(here, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    (client, run, params, metrics, summary, end), said = tell("mlflow")
    assert client == ["client", "http://localhost:1"]
    assert run == ["run", "fasttrain", "run"]
    assert params == ["batch", "new", {"params": [["lr", "auto"]]}]
    assert metrics == ["batch", "new", {"metrics": [["lr", 0.5, 1], ["train_loss", 2.0, 1]]}]
    assert summary == ["batch", "new", {"metrics": [["epochs", 1.0, 1], ["best", 0.5, 1]]}]
    assert end == ["end", "new", "FINISHED"]
    assert said == ["tracker: mlflow, run new in http://localhost:1"]


def test_mlflow_goes_on_with_its_run_where_it_was_unless_it_is_gone(here, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    (*_, end), _ = tell("mlflow", fails=True)
    assert end == ["end", "new", "KILLED"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:2")
    (client, update, *_), _ = tell("mlflow")
    assert client == ["client", "http://localhost:1"]
    assert update == ["update", "new", "RUNNING"]
    kept = json.loads(Path("run/tracker.json").read_text())
    kept["kept"]["id"] = "lost"
    Path("run/tracker.json").write_text(json.dumps(kept))
    (_, run, _, metrics, *_), _ = tell("mlflow")
    assert run[0] == "run"
    assert metrics[0] == "batch"  # the new run is told all epochs


def test_mlflow_without_a_place_of_its_own_gets_one_that_every_folder_finds(here, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    ((_, where), *_), _ = tell("mlflow")
    assert where == (here / "mlruns").as_uri()  # without a database
    Path("run/tracker.json").unlink()
    (here / "sqlalchemy.py").write_text("")
    ((_, where), *_), _ = tell("mlflow")
    assert where == f"sqlite:///{here / 'mlflow.db'}"
