"""`--profile` on a whole run, read by torch-tb-profiler's own loader and in a real TensorBoard."""

import contextlib
import gzip
import io
import json
import subprocess
import sys
import time
from urllib.request import urlopen

import ports
import pytest
import tiny_runs
from rich.console import Console

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.console.console import Display
from fasttrain.engine.state import Epoch, Run
from fasttrain.models.resnet import ResNet18
from fasttrain.run import profiling
from fasttrain.run.profiling import Profiling
from fasttrain.run.rundir import RunDir
from tests.report import test_browser

ARGUMENTS = "--profile --dataset synthetic --train-limit 20 --test-limit 10 --batch-size 4 "
ARGUMENTS += "--epochs 2 --lr 0.05 --device cpu --loader resident --amp off"
SPANS = {"data", "step", "eval", "optimizer"}
VIEWS = ["Overview", "Operator", "Trace"]

driver = test_browser.driver  # Chromium, or a skip that says there is none


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """(run directory, what was printed): the real network, 5 steps an epoch, 4 of them recorded."""
    path, said = tmp_path_factory.mktemp("runs") / "profiled", io.StringIO()
    with tiny_runs.shrunk(ResNet18), contextlib.redirect_stdout(said):
        assert cli.main([*ARGUMENTS.split(), "--out", str(path)]) == 0
    return path, said.getvalue()


@pytest.fixture(scope="module")
def server(profiled):
    """The address of a TensorBoard on the run's directory that has loaded it."""
    held = ports.reserved()
    port = held.getsockname()[1]
    where = ["--logdir", str(profiled[0]), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *where, "--load_fast", "false"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + 90
    while not runs(address):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.3)
    yield address
    process.terminate()
    process.wait(timeout=30)
    held.close()


def runs(address):
    """The runs that the profiler plugin has loaded."""
    with (
        contextlib.suppress(OSError),
        urlopen(f"{address}/data/plugin/pytorch_profiler/runs") as it,
    ):
        return json.load(it)["runs"]
    return []


def annotations(file):
    return {e["name"] for e in json.load(file)["traceEvents"] if e.get("cat") == "user_annotation"}


def test_a_profiled_run_says_and_keeps_where_its_time_goes(profiled):
    path, said = profiled
    (trace,) = (path / "tensorboard").glob("*.pt.trace.json.gz")
    found = json.loads((path / "profile.json").read_text())
    assert found["trace"] == trace.name
    assert (found["device"], found["steps"]) == ("cpu", 3)  # the first of the four sets the clock
    assert found["busy"] + found["data_wait"] + found["host_gap"] == pytest.approx(1)
    assert found["busy"] > 0.5
    assert set(found["spans"]) == SPANS
    assert "convolution" in found["top"][0]["name"]
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert found["untraced_step_seconds"] == pytest.approx(rows[1]["seconds"] / 5)
    assert (path / "profile.txt").read_text() in said
    assert "device busy" in said


def test_the_profile_is_compared_with_the_epoch_next_to_it(tmp_path, tiny):
    """The machine may have become slower or faster until the last one."""
    path = tmp_path / "a"
    recipe = tiny_runs.small(epochs=4)
    fasttrain.train(recipe, out=path, profile=True)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    found = json.loads((path / "profile.json").read_text())
    assert found["untraced_epoch"] == 2
    assert found["untraced_step_seconds"] == pytest.approx(rows[1]["seconds"] / 3)
    assert "without the profiler in epoch 2" in (path / "profile.txt").read_text()


@pytest.mark.parametrize(
    ("profiled", "epochs", "nearest"),
    [(1, [1], None), (1, [1, 2, 3, 9], 2), (3, [1, 2, 3], 2), (3, [1, 2, 3, 4], 4), (9, [], None)],
)
def test_the_nearest_epoch_without_the_profiler_is_the_next_or_else_the_last_before(
    profiled, epochs, nearest
):
    history = [Epoch(epoch, *[0.0] * 8) for epoch in epochs]
    found = profiling.nearest(history, profiled)
    assert (found and found.epoch) == nearest


def test_a_run_without_a_recorded_step_says_so(tmp_path):
    said = io.StringIO()
    with RunDir.create(tmp_path / "run") as folder:
        Profiling(folder, Display(Console(file=said))).report(None, Run())
    assert "ended before a whole step was recorded" in said.getvalue()
    assert not (tmp_path / "run" / "profile.json").exists()


def test_overwriting_the_run_removes_what_the_profile_left(profiled, tmp_path):
    for name in ("recipe.json", "profile.txt", "profile.json"):
        (tmp_path / name).write_bytes((profiled[0] / name).read_bytes())
    with RunDir.create(tmp_path, overwrite=True) as folder:
        folder.begin({}, {})
        assert not list(tmp_path.glob("profile*"))


def test_the_profiler_plugins_own_loader_finds_the_views_and_our_spans(profiled, tmp_path):
    loaders = pytest.importorskip("torch_tb_profiler.profiler")
    from torch_tb_profiler.io import Cache

    with Cache(str(tmp_path)) as cache:
        run = loaders.RunLoader("run", str(profiled[0] / "tensorboard"), cache).load()
        (profile,) = run.profiles.values()
    assert [view.display_name for view in run.views] == VIEWS
    assert run.workers == ["fasttrain"]
    operators = {row["name"] for row in profile.operation_table_by_name["data"]}
    assert {"aten::convolution_backward", "aten::_fused_sgd_"} <= operators
    with gzip.open(profile.trace_file_path) as file:
        assert annotations(file) >= SPANS


def test_tensorboard_shows_the_runs_views_in_a_browser(driver, server):
    driver.get(f"{server}/#pytorch_profiler")
    driver.switch_to.frame(seen(driver, "iframe")[0])
    chosen = {element.text for element in seen(driver, "[role=button]")}
    assert {"tensorboard", "Overview", "fasttrain"} <= chosen
    views = next(found for found in seen(driver, "[role=button]") if found.text == "Overview")
    views.click()
    assert [option.text for option in seen(driver, "li[role=option]")] == VIEWS
    plugin = f"{server}/data/plugin/pytorch_profiler"
    fetched = driver.execute_async_script(
        "fetch(arguments[0]).then((got) => got.text()).then(arguments[1])",
        f"{plugin}/trace?run=tensorboard&worker=fasttrain&span=1&view=Trace",
    )
    assert annotations(io.StringIO(fetched)) >= SPANS
    driver.switch_to.default_content()


def seen(driver, selector, *, seconds=30):
    """The elements, as soon as there are any with a text or, of frames, any at all."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = driver.find_elements("css selector", selector)
        if found and (selector == "iframe" or all(element.text for element in found[:3])):
            return found
        time.sleep(0.2)
    raise AssertionError(f"no {selector} within {seconds} s")
