"""Tells a run to MLflow: where MLFLOW_TRACKING_URI says, or where mlflow itself would.

mlflow-skinny has no database, and then a folder `mlruns` is used. mlflow's telemetry is off, unless
it was turned on: without a network it held a process for 90 s at its end.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before its import, which sends some
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
import mlflow
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from .tracked import About

EXPERIMENT, SQLITE = "fasttrain", "sqlite:///"


class MlflowRun:
    """An open run of MLflow; the step of its metrics is the epoch."""

    def __init__(self, client: Any, run_id: str, uri: str) -> None:
        self._client, self._id = client, run_id
        self.kept = {"id": run_id, "uri": uri}
        self.note = f"mlflow, run {run_id} in {uri}"

    def epoch(self, row: dict[str, Any]) -> None:
        """Log a row of metrics.jsonl."""
        self._log({**row, "epoch": None}, step=row["epoch"])

    def end(self, summary: dict[str, Any]) -> None:
        """Log the numbers of summary.json and finish the run."""
        self._log(summary, step=summary["epochs"])
        self._client.set_terminated(self._id, "FINISHED")

    def stop(self) -> None:
        """Finish it as not complete."""
        self._client.set_terminated(self._id, "KILLED")

    def _log(self, values: dict[str, Any], *, step: int) -> None:
        now = int(time() * 1000)
        numbers = {name: value for name, value in values.items() if type(value) in (int, float)}
        metrics = [Metric(name, float(value), now, step) for name, value in numbers.items()]
        self._client.log_batch(self._id, metrics=metrics)


def start(about: About) -> MlflowRun:
    """Open a run, or continue the one that is kept, if it is still there."""
    uri = about.kept.get("uri") or _place()
    client = mlflow.MlflowClient(tracking_uri=uri)
    with suppress(KeyError, MlflowException):
        client.update_run(about.kept["id"], status="RUNNING")
        return MlflowRun(client, about.kept["id"], uri)
    made = client.create_run(_experiment(client), run_name=about.title)
    params = [Param(field, str(value)) for field, value in about.recipe.items()]
    client.log_batch(made.info.run_id, params=params)
    return MlflowRun(client, made.info.run_id, uri)


def _place() -> str:
    """Return where new runs go, absolute, so that a resumed run finds it from any folder."""
    database = importlib.util.find_spec("sqlalchemy") is not None
    named = database or os.environ.get("MLFLOW_TRACKING_URI")
    uri = str(mlflow.get_tracking_uri()) if named else "mlruns"
    if uri.startswith(SQLITE):
        return SQLITE + str(Path(uri.removeprefix(SQLITE)).absolute())
    return uri if ":" in uri or uri == "databricks" else Path(uri).absolute().as_uri()


def _experiment(client: Any) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found else client.create_experiment(name)
