"""However a whole run is broken off, --resume ends bitwise where an undisturbed run ends."""

from __future__ import annotations

import shutil
import signal

import pytest
import tiny_runs
import torch
from faults import CRASHES, ERRORS, FOR_GOOD, every_fault
from tiny_runs import end, same, small, train

import fasttrain
from fasttrain.errors import Stopped
from fasttrain.optim.schedule import EveryStep, Plateau
from fasttrain.optim.warm_up import WarmUp
from fasttrain.run import resume
from fasttrain.storage import atomic
from tests.run.test_train import Interrupting

pytestmark = pytest.mark.usefixtures("tiny")
OFTEN = 0.001  # seconds: a save after every step that finds the thread idle


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The end of an undisturbed run."""
    with tiny_runs.shrunk():
        path = tmp_path_factory.mktemp("runs") / "whole"
        train(path)
        return end(path)


def broken_everywhere(kind, path, monkeypatch, **changes) -> tuple[list[dict], int]:
    """The ends of runs whose n-th file operation failed and that were resumed, for every n."""
    ends = []
    for faults in every_fault(monkeypatch, kind):
        shutil.rmtree(path, ignore_errors=True)
        outcome = faults.run(lambda: train(path, **changes))
        broke = faults.calls[faults.at - 1] if faults.fired else ""
        done = not broke or "short" in kind or broke == "_link"  # without a link it renames
        # After the summary a fault is the report's: a warning, since the training is saved.
        trained = (path / "summary.json").exists()
        assert done or outcome in ("crashed", "refused") or trained
        train(path, **changes)
        ends.append(end(path))
        left = [str(file) for file in path.rglob("*") if atomic.LEFTOVER.fullmatch(file.name)]
        assert left == [], f"{kind} at {faults.at}"
    return ends, faults.at - 1


soak = pytest.mark.soak
KINDS = [
    pytest.param("crash in a write", 600.0),
    pytest.param("ENOSPC", 600.0),
    *(pytest.param(kind, OFTEN, marks=soak) for kind in CRASHES),
    pytest.param("crash", 600.0, marks=soak),
    *(pytest.param(kind, 600.0, marks=soak) for kind in (*ERRORS[1:], FOR_GOOD)),
]


@pytest.mark.parametrize(("kind", "every"), KINDS)
def test_a_run_broken_at_any_file_operation_ends_as_if_nothing_had_been(
    kind, every, whole, tmp_path, monkeypatch, record_property
):
    ends, points = broken_everywhere(kind, tmp_path / "a", monkeypatch, save_every=every)
    assert [number for number, found in enumerate(ends, 1) if not same(found, whole)] == []
    assert points >= 60, "a run of two epochs, from its recipe to its summary"
    record_property("crash points of a whole run", points)


def stopped(path, **changes) -> None:
    """A run that a signal ends in the middle of its second epoch."""
    with pytest.raises(Stopped):
        fasttrain.train(small(**changes), out=path, display=Interrupting(6, signal.SIGTERM))


SCHEDULES = [
    {"scheduler": "plateau", "patience": 0, "threshold": 1.0, "epochs": 4},
    {"scheduler": "cosine"},
    {"scheduler": "onecycle"},
    # It is stopped in the middle of the warm-up, which ends with the fifth of six steps.
    {"scheduler": "linear", "warmup": 1.7, "nesterov": True, "decay_norms": False, "clip_grad": 0.5}
    | {"accumulate": 4, "lr": 0.2},
    {"scheduler": "plateau", "warmup": 1.7, "optimizer": "adamw", "lr": 0.01},
]


@pytest.mark.parametrize("changes", SCHEDULES, ids=lambda changes: "-".join(map(str, changes)))
@pytest.mark.parametrize("forgotten", ["nothing", "rng", "momentum", "scheduler"])
def test_a_resumption_that_forgets_anything_ends_elsewhere(
    forgotten, changes, tmp_path, monkeypatch
):
    """With "nothing" exact; each of the others is the control that this comparison sees it."""
    train(tmp_path / "whole", **changes)
    stopped(tmp_path / "a", **changes)
    forget(forgotten, monkeypatch)
    train(tmp_path / "a", **changes)
    assert same(end(tmp_path / "a"), end(tmp_path / "whole")) == (forgotten == "nothing")


def forget(what, monkeypatch) -> None:
    if what == "rng":
        monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    elif what == "momentum":
        real = resume.restore

        def restore(state, *rest):
            for values in state["step"]["optimizer"]["state"].values():
                values.get("momentum_buffer", values.get("exp_avg")).zero_()
            return real(state, *rest)

        monkeypatch.setattr(resume, "restore", restore)
    elif what == "scheduler":
        for kind in (Plateau, EveryStep, WarmUp):
            monkeypatch.setattr(kind, "load_state_dict", lambda self, state: None)
            monkeypatch.setattr(kind, "seek", lambda self, done: None)
