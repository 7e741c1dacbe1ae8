"""The real wandb, offline, and the real mlflow, in a folder, are told what a run is.

`make trackers` installs them, in an environment of their own, and runs this.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

import fasttrain
from tests.tiny_runs import small

pytestmark = pytest.mark.trackers


@pytest.fixture
def here(tmp_path, monkeypatch, tiny):
    """An empty current folder, home and folder for temporary files; nobody is logged in."""
    for name in ("cwd", "home", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


def rows(run: str) -> list[dict]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def remembered(run: str) -> dict[str, str]:
    return json.loads(Path(run, "tracker.json").read_text())["kept"]


def records(data: bytes) -> Iterator[bytes]:
    """The records of a file of wandb: LevelDB's log, whose blocks of 32 KiB hold parts of them."""
    at, whole = 7, b""  # after ":W&B", a number and the version
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768  # no part begins in a block's last bytes
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def wandb_rows(run: str) -> list[dict]:
    """The epochs in the files of a run's offline runs, in order, as wandb has them."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for file in sorted(Path(run).glob("wandb/offline-run-*/run-*.wandb")):
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                items = {i.key or i.nested_key[0]: i.value_json for i in record.history.item}
                found.append({k: json.loads(v) for k, v in items.items() if k[0] != "_"})
    return found


def test_wandb_offline_has_every_epoch_and_writes_nothing_outside_the_run(here, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    fasttrain.train(small(track="wandb"), out="run")
    plain = [{name: v for name, v in row.items() if v is not None} for row in rows("run")]
    assert wandb_rows("run") == plain
    late = monotonic() + 10  # its own process ends after ours
    while list((here / "tmp").rglob("*")) and monotonic() < late:
        sleep(0.1)
    for name in ("home", "tmp"):
        assert list((here / name).rglob("*")) == [], name
    assert [path.name for path in (here / "cwd").iterdir()] == ["run"]


def test_wandb_goes_on_with_the_same_id_after_a_resume(here, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    fasttrain.train(small(track="wandb", epochs=1), out="run")
    first = remembered("run")
    fasttrain.train(small(track="wandb", epochs=2), continued="run", override=True)
    assert remembered("run") == first
    assert [row["epoch"] for row in wandb_rows("run")] == [1, 2]
    files = list(Path("run").glob("wandb/offline-run-*/run-*.wandb"))
    assert {file.name for file in files} == {f"run-{first['id']}.wandb"}


def test_without_a_login_wandb_is_offline_and_says_how_to_send_it(here, capsys):
    from rich.console import Console

    from fasttrain.console.console import Display

    fasttrain.train(small(track="wandb"), out="run", display=Display(Console()))
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "tracker" in line]
    (folder,) = Path("run/wandb").glob("offline-run-*")
    assert said == f"tracker: wandb, offline; send it with: wandb sync {folder.absolute()}"
    assert len(wandb_rows("run")) == 2


def test_mlflow_has_the_recipe_each_epoch_and_the_summary_in_one_run(here):
    fasttrain.train(small(track="mlflow", epochs=1), out="run")
    fasttrain.train(small(track="mlflow", epochs=2), continued="run", override=True)
    code = """
import json, os, sys
os.environ["MLFLOW_ALLOW_FILE_STORE"] = os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
import mlflow
client = mlflow.MlflowClient(tracking_uri=sys.argv[1])
(run,) = client.search_runs([client.get_experiment_by_name("fasttrain").experiment_id])
print(json.dumps({
    "id": run.info.run_id, "status": run.info.status, "params": run.data.params,
    "summary": run.data.metrics["best_test_accuracy"],
    "loss": [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, "train_loss")],
}))
"""
    where = remembered("run")
    done = subprocess.run(
        [sys.executable, "-c", code, where["uri"]], capture_output=True, check=True, text=True
    )
    found = json.loads(done.stdout)
    assert found["id"] == where["id"]
    assert found["status"] == "FINISHED"
    assert found["params"]["batch_size"] == "16"
    assert found["loss"] == [[row["epoch"], row["train_loss"]] for row in rows("run")]
    summary = json.loads(Path("run/summary.json").read_text())
    assert found["summary"] == summary["best_test_accuracy"]
    assert {path.name for path in (here / "cwd").iterdir()} <= {"run", "mlruns", "mlflow.db"}
