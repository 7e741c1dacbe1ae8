"""A tracker is told every epoch, and whatever it does neither ends a run nor makes it wait."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from time import monotonic, sleep

import pytest

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.console.console import Display
from fasttrain.errors import EnvironmentProblem, UsageError
from fasttrain.run import folders, start
from fasttrain.run.rundir import NullRunDir
from fasttrain.track import launch, tracker
from fasttrain.track.tracker import Tracker
from tests import tiny_runs
from tests.tiny_runs import SMALL, small

OWN = """
import json, os, time

def tell(event, values):
    with open("told.jsonl", "a") as file:
        file.write(json.dumps([event, values]) + "\\n")

def track(event, values):
    tell(event, values)
    if event == "start":
        return "run-7"

def raises(event, values):
    tell(event, values)
    if event == "epoch":
        raise ValueError(f"no place for {values['epoch']}\\nmore")

def refuses(event, values):
    raise SystemExit("not today")

def hangs(event, values):
    tell(event, {"pid": os.getpid()})
    time.sleep(60)

def slow(event, values):
    time.sleep(0.1 if event == "epoch" else 0)
    tell(event, values)

def ends(event, values):
    print("ends here", flush=True)
    os._exit(7)

def prints(event, values):
    print(event)

number = 7
"""
ROW = {"epoch": 1, "lr": 0.1, "train_loss": 2.0}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with a person's trackers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_trackers.py").write_text(OWN)
    (tmp_path / "run").mkdir()
    return tmp_path


def told(here: Path) -> list:
    return [json.loads(line) for line in (here / "told.jsonl").read_text().splitlines()]


def tell(name: str, *, epochs: int = 2, history: tuple = ()) -> list[str]:
    """Tell a run of some epochs to `name`; return what was printed."""
    said: list[str] = []
    with Tracker(name, Path("run"), log=said.append, warn=said.append) as made:
        made.wait()
        made.start({"epochs": epochs}, history)
        for number in range(len(history) + 1, epochs + 1):
            made.epoch({**ROW, "epoch": number})
        made.end({"epochs": epochs})
    return said


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_a_function_is_told_the_recipe_each_epoch_and_the_summary(here, tiny):
    rows = fasttrain.train(small(track="my_trackers:track"), out="run")
    start, *epochs, end = told(here)
    recipe = json.loads(Path("run/recipe.json").read_text())
    assert start == ["start", {"run": str(here / "run"), "recipe": recipe, "id": None}]
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert epochs == [["epoch", line] for line in lines]
    assert [line["test_accuracy"] for line in lines] == [row.test_accuracy for row in rows]
    assert end == ["end", json.loads(Path("run/summary.json").read_text())]
    assert not Path("run/tracker.log").exists()  # it printed nothing


@pytest.mark.parametrize("name", ["raises", "refuses", "hangs", "ends"])
def test_a_run_whose_tracker_fails_is_the_run_without_one(name, here, tiny, monkeypatch):
    monkeypatch.setattr(tracker, "FINISH", 0.1)
    monkeypatch.setattr(launch, "CALL", 1.0)
    fasttrain.train(small(), out="control")
    with pytest.warns(UserWarning, match=r"warning: the tracker \(my_trackers:"):
        fasttrain.train(small(track=f"my_trackers:{name}"), out="run")
    assert tiny_runs.same(tiny_runs.end(Path("control")), tiny_runs.end(Path("run")))


def test_what_it_raises_is_said_once_and_it_is_told_the_rest(here):
    (said,) = tell("my_trackers:raises")
    place = OWN[: OWN.index("raise ValueError")].count("\n") + 1
    assert said == (
        "the tracker (my_trackers:raises) failed: ValueError: no place for 1 (my_trackers.py, line "
        f"{place}). The training goes on"
    )
    assert [event for event, _ in told(here)] == ["start", "epoch", "epoch", "end"]


def test_a_hanging_tracker_is_never_waited_for_and_ends_by_itself(here, monkeypatch):
    monkeypatch.setattr(tracker, "FINISH", 0.2)
    monkeypatch.setattr(launch, "CALL", 1.0)
    said: list[str] = []
    made = Tracker("my_trackers:hangs", Path("run"), log=said.append, warn=said.append)
    with made:
        made.start({}, [])
        began = monotonic()
        for number in range(1, 900):  # more than a pipe holds
            made.epoch({**ROW, "epoch": number, "name": "x" * 300})
        made.end({})
        assert monotonic() - began < 2
        began = monotonic()
    assert monotonic() - began < 3
    assert said == ["the tracker (my_trackers:hangs) has not finished after 0.2 s and is left to "
                    "itself"]  # fmt: skip
    ((_, values),) = told(here)
    late = monotonic() + 10
    while is_there(values["pid"]) and monotonic() < late:
        sleep(0.02)
    assert not is_there(values["pid"])
    log = Path("run/tracker.log").read_text()
    assert "Timeout" in log
    assert "hangs" in log


def test_a_slow_tracker_is_told_all_in_order_while_the_run_goes_on(here):
    said: list[str] = []
    with Tracker("my_trackers:slow", Path("run"), log=said.append, warn=said.append) as made:
        made.start({}, [])
        for number in range(1, 5):
            made.epoch({**ROW, "epoch": number})
        made.end({})
        early = len(told(here)) if Path("told.jsonl").exists() else 0
        assert early < 5  # it needs 0.4 s for the epochs
    assert said == []
    assert [row.get("epoch") for _, row in told(here)] == [None, 1, 2, 3, 4, None]


def test_more_than_the_queue_holds_is_left_out_and_counted(here, monkeypatch):
    monkeypatch.setattr(tracker, "MOST", 2)
    monkeypatch.setattr(tracker.os, "write", lambda *_: sleep(0.3) or 1 << 20)  # a full pipe
    monkeypatch.setattr(tracker, "FINISH", 0.0)
    said = tell("my_trackers:track", epochs=6)
    assert said[-1].startswith("the tracker (my_trackers:track) was too slow: it was not told ")
    assert int(said[-1].split()[-2]) >= 4


def test_a_process_that_ends_is_said_once_with_its_status_and_its_log(here):
    said: list[str] = []
    with Tracker("my_trackers:ends", Path("run"), log=said.append, warn=said.append) as made:
        made.start({}, [])
        late = monotonic() + 10
        for number in range(1, 1000):
            made.epoch({**ROW, "epoch": number})
            if said or monotonic() > late:
                break
            sleep(0.01)
        made.epoch(ROW)
        made.end({})
    log = Path("run/tracker.log")
    assert said == [
        f"the tracker (my_trackers:ends) ended with status 7; {log} may say why. The training goes "
        "on without it"
    ]
    assert log.read_text() == "ends here\n"


def test_what_it_prints_is_in_the_runs_log_and_not_on_the_console(here, capfd):
    assert tell("my_trackers:prints", epochs=1) == []
    assert Path("run/tracker.log").read_text() == "start\nepoch\nend\n"
    assert capfd.readouterr() == ("", "")


def test_a_killed_run_takes_its_tracker_with_it(here):
    code = (
        "from pathlib import Path; from time import sleep; from fasttrain.track import tracker\n"
        "from fasttrain.track import launch; launch.CALL = 1.0\n"
        "with tracker.Tracker('my_trackers:hangs', Path('run'), log=print, warn=print) as made:\n"
        "    made.start({}, []); sleep(60)\n"
    )
    path = os.pathsep.join([str(Path(fasttrain.__file__).parents[1]), *sys.path])
    run = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    late = monotonic() + 20
    while not (here / "told.jsonl").exists() and monotonic() < late:
        sleep(0.01)
    sleep(0.02)
    run.kill()
    run.wait()
    ((_, values),) = told(here)
    while is_there(values["pid"]) and monotonic() < late:
        sleep(0.02)
    assert not is_there(values["pid"])


# --- resuming -------------------------------------------------------------------------------------


def test_a_resumed_run_goes_on_with_the_id_and_tells_no_epoch_twice(here, tiny):
    fasttrain.train(small(epochs=2), out="whole")
    fasttrain.train(small(track="my_trackers:track", epochs=1), out="run")
    Path("told.jsonl").unlink()
    words = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    assert cli.main([*words, "--resume", "run", "--override", "--epochs=2"]) == 0  # no --track
    start, *epochs, _ = told(here)
    assert start[1]["id"] == "run-7"
    assert [row["epoch"] for _, row in epochs] == [2]
    assert tiny_runs.same(tiny_runs.end(Path("whole")), tiny_runs.end(Path("run")))
    Path("told.jsonl").unlink()
    more = [*words, "--resume", "run", "--override", "--epochs=3", "--track", "none"]
    assert cli.main(more) == 0
    assert not Path("told.jsonl").exists()


def test_epochs_that_it_was_not_told_are_told_at_the_resume(here):
    rows = tuple({**ROW, "epoch": number} for number in (1, 2, 3))
    tell("my_trackers:track", epochs=1)
    tell("my_trackers:track", epochs=4, history=rows)
    assert [row["epoch"] for event, row in told(here) if event == "epoch"] == [1, 2, 3, 4]


def test_an_epoch_that_is_trained_again_to_another_loss_is_told_again(here):
    tell("my_trackers:track", epochs=2)
    tell("my_trackers:track", epochs=2, history=({**ROW, "train_loss": 1.5},))
    found = [(row["epoch"], row["train_loss"]) for event, row in told(here) if event == "epoch"]
    assert found == [(1, 2.0), (2, 2.0), (1, 1.5)]


def test_another_tracker_begins_anew_and_a_damaged_memory_is_none(here):
    tell("my_trackers:track")
    tell("my_trackers:slow", epochs=1)
    assert told(here)[-3][1]["id"] is None
    Path("run/tracker.json").write_text("{torn")
    tell("my_trackers:track", epochs=1)
    assert told(here)[-3][1]["id"] is None


# --- refusals, before anything is trained ---------------------------------------------------------

REFUSED = {
    "my_trackers:trak": "has no function trak. Did you mean track?",
    "my_trackers:number": "number is a int and cannot be called. Name a function that takes an",
    "my_missing:track": "there is no module my_missing in the current folder",
    "my_broken:track": "importing my_broken raised ZeroDivisionError: division by zero (my_broken",
    "nonsense": "must be one of none, wandb, mlflow, or look like MODULE:FUNCTION",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_function_that_is_not_there_is_exit_2_in_one_line(name, here, tiny, capsys):
    (here / "my_broken.py").write_text("1 / 0\n")
    words = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    assert cli.main([*words, "--out", "new", "--track", name]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"fasttrain: error: --track ({name}): ")
    assert REFUSED[name] in said
    assert said.count("\n") == 1
    assert not Path("new").exists()


@pytest.mark.parametrize("found", [None, ModuleSpec("wandb", None)])
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_exit_3_before_anything_is_read(name, found, here, tiny, capsys):
    """A folder named wandb, which wandb itself leaves behind, is importable and no package."""
    words = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(importlib.util, "find_spec", lambda name: found)
        assert cli.main([*words, "--out", "new", "--track", name]) == 3
    assert capsys.readouterr().err == (
        f"fasttrain: error: --track ({name}): the package is not installed. Install it with pip "
        f"install {name}, or leave --track out.\n"
    )
    assert not Path("new").exists()


def test_a_package_that_cannot_be_imported_is_exit_3_and_replaces_no_run(here, tiny, monkeypatch):
    fasttrain.train(small(epochs=1), out="run")
    before = Path("run/recipe.json").read_bytes()
    (here / "wandb.py").write_text("raise ImportError('no libfoo')\n")
    monkeypatch.syspath_prepend(here)
    with pytest.raises(EnvironmentProblem, match=r"\(wandb\): importing it raised ImportError: no"):
        fasttrain.train(small(track="wandb"), out="run", overwrite=True)
    assert Path("run/recipe.json").read_bytes() == before
    (here / "wandb.py").write_text("import os\nos._exit(9)\n")
    with pytest.raises(EnvironmentProblem, match="ended with status 9"):
        fasttrain.train(small(track="wandb"), out="run", overwrite=True)


def test_one_that_cannot_be_imported_in_time_is_left_out(here, monkeypatch):
    (here / "my_slow.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(tracker, "IMPORT", 0.2)
    (said,) = tell("my_slow:track")
    assert "could not be imported in 0.2 s. The training goes on without it" in said


def test_a_misspelt_tracker_is_told_the_nearest():
    with pytest.raises(UsageError, match="Did you mean wandb"):
        fasttrain.Recipe(track="wandbb")


def test_only_the_first_process_of_a_group_has_a_tracker(here):
    made = start.tracking(small(track="wandb"), NullRunDir(Path("run")), Display())
    with made:  # the package is not even looked for
        made.wait()
        made.start({}, [])
        made.epoch(ROW)
        made.end({})
    assert list(Path("run").iterdir()) == []


# --- the run directory ----------------------------------------------------------------------------


def test_overwrite_removes_what_a_tracker_left_in_the_run(here, tiny):
    fasttrain.train(small(track="my_trackers:prints", epochs=1), out="run")
    inside = Path("run/wandb/offline-run-1")
    inside.mkdir(parents=True)
    (inside / "run.wandb").write_text("x")
    if os.name != "nt":
        Path("run/wandb/latest-run").symlink_to("offline-run-1")
    assert folders.foreign_file(Path("run")) is None
    fasttrain.train(small(epochs=1), out="run", overwrite=True)
    for gone in ("tracker.json", "tracker.log", "wandb/offline-run-1/run.wandb"):
        assert not (Path("run") / gone).exists(), gone
    assert folders.foreign_file(Path("run")) is None
