"""Worker processes: the same array as by threads, one line where one dies, and none that stays."""

import operator
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from made_images import folder, listing_of, prepared, save

from fasttrain.data import crew, decoding, own, pictures, pixels, prepare, reading, workers
from fasttrain.errors import DataError, OutOfMemory
from tests.data.test_prepare import reference, spoil

HERE = Path(__file__).parents[1]


@pytest.fixture
def data(tmp_path):
    """60 PNGs of three classes in train and test."""
    folder(tmp_path / "data" / "train", ["a", "b", "c"], count=15)
    folder(tmp_path / "data" / "test", ["a", "b", "c"], count=5, start=9000)
    return tmp_path / "data"


@pytest.fixture
def many(monkeypatch):
    """Sixty images are enough for two processes, which make a few at a time."""
    monkeypatch.setattr(workers, "MANY", 1)  # also for what a broken preparation left
    monkeypatch.setattr(crew, "cores", lambda: 2)
    monkeypatch.setattr(decoding, "TASK_PIXELS", 2000)
    monkeypatch.setattr(pictures, "small", lambda *a, **o: pytest.fail("decoded in this process"))
    monkeypatch.setattr(reading, "sha256_of", lambda file: pytest.fail("read in this process"))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(pixels, "MOST_ROWS", 8)


@pytest.fixture
def two():
    with workers.Workers() as started:
        started.start(2)
        yield started


def alive(pids):
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() or _exists(pid)]


def _exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_processes_and_threads_make_the_same_array_and_the_same_reasons(data, tmp_path, request):
    spoil(data)
    save(data / "train/b/gray.png", 12, mode="L")
    save(data / "train/c/turned.png", 13, height=30, width=50, mode="RGBA")
    by_threads = prepared(data, tmp_path / "threads", skip_bad_files=True, threads=2)
    request.getfixturevalue("many")
    by_processes = prepared(data, tmp_path / "processes", skip_bad_files=True)
    assert (by_processes.images == by_threads.images).all()
    assert by_processes.listing == by_threads.listing
    assert len(by_processes.listing.bad) == 4
    assert by_processes.folder.name == by_threads.folder.name
    assert by_processes.blocks == by_threads.blocks
    assert (by_processes.mean, by_processes.std) == (by_threads.mean, by_threads.std)


def test_the_same_processes_read_and_decode_also_where_files_turn_out_to_be_damaged(
    data, tmp_path, many, monkeypatch
):
    started, real = [], workers._started
    monkeypatch.setattr(workers, "_started", lambda: started.append(real()) or started[-1])
    spoil(data)
    said, options = [], {"side": 16, "skip_bad_files": True, "folder": tmp_path / "cache"}
    made, _ = own.load(data, **options, log=said.append)
    assert len(made.listing.bad) == 4
    assert any("without files that cannot be used" in line for line in said)
    assert len(started) == 2
    assert alive([process.pid for process in started]) == []


def test_a_small_folder_starts_no_process(data, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_started", lambda: pytest.fail("started a process"))
    prepared(data, tmp_path / "cache")


def test_a_worker_imports_neither_torch_nor_numpy_until_an_image_needs_it(two):
    heavy = "{'torch', 'numpy', 'rich'} & set(__import__('sys').modules)"
    assert two.call(eval, heavy, what="") == set()
    assert two.call(operator.add, 1, 2, what="") == 3


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [{here!r}, {root!r}]
with open({log!r}, "a") as file:
    file.write("run\\n")
from fasttrain.data import crew, own, pictures, workers
workers.MANY, crew.cores = 10, lambda: 2
pictures.small = None
made = own.load(Path({data!r}), side=16, folder=Path({cache!r})).prepared
print(len(made.images))
"""


def test_a_script_without_a_guard_is_run_once(data, tmp_path):
    """multiprocessing's spawn would run it again in each process."""
    log, script = tmp_path / "log", tmp_path / "script.py"
    names = {"here": HERE, "root": HERE.parent, "log": log, "data": data, "cache": tmp_path / "c"}
    script.write_text(SCRIPT.format(**{name: str(path) for name, path in names.items()}))
    # A module of the script's folder is not taken for one of Python's.
    (tmp_path / "pickle_of_mine.py").write_text("raise SystemExit('imported')")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("60\n", "")
    assert log.read_text() == "run\n"


@pytest.mark.parametrize(
    ("number", "error", "says"),
    [
        (signal.SIGKILL, OutOfMemory, "was killed, which systems do if memory runs out"),
        (signal.SIGSEGV, DataError, r"ended \(SIGSEGV\)"),
    ],
)
def test_a_worker_that_dies_is_one_clear_line(number, error, says):
    with workers.Workers() as hands:
        hands.start(1)
        pid = hands.call(os.getpid, what="")
        with pytest.raises(error, match=f"a/1.png to a/9.png: the process .*{says}") as caught:
            hands.call(os.kill, pid, number, what="a/1.png to a/9.png")
    assert "\n" not in str(caught.value)


def test_a_preparation_whose_worker_is_killed_goes_on_where_it_was(data, tmp_path, many):
    hands = workers.Workers()

    def kill(done, total):
        if done >= 24:
            hands.processes[1].kill()

    listing, source = listing_of(data)
    options = {"side": 16, "folder": tmp_path / "cache"}
    with hands, pytest.raises(OutOfMemory, match="if memory runs out") as caught:
        prepare.prepare(listing, source, **options, progress=kill, workers=hands)
    assert caught.value.code == 8
    assert alive([process.pid for process in hands.processes]) == []
    kept = next((tmp_path / "cache").glob("*/" + pixels.BLOCKS)).read_bytes().count(b"\n")
    assert kept >= 1
    said = []
    made = prepare.prepare(listing, source, **options, log=said.append)
    assert "of it already there" in said[0]
    assert (made.images == reference(listing, data, 16)).all()


def test_what_a_worker_raises_is_raised_here(two, data, tmp_path, many):
    listing, source = listing_of(data)
    save(data / "train/b/3.png", 4321)
    with pytest.raises(DataError, match=r"train/b/3\.png: changed while"):
        prepare.prepare(listing, source, side=16, folder=tmp_path / "cache")
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*ZeroDivisionError"):
        two.call(divmod, 1, 0, what="")
    assert two.call(divmod, 7, 2, what="") == (3, 1)  # it goes on


@pytest.mark.parametrize("how", ["exits", "says something else", "is no Python", "is not there"])
def test_where_no_process_can_start_this_one_does_the_work(tmp_path, monkeypatch, how):
    fake = tmp_path / ("blender" if how == "is no Python" else "python3")
    if how != "is not there":
        fake.write_text(
            "#!/bin/sh\n" + ("echo hello" if how == "says something else" else "exit 1")
        )
        fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with workers.Workers() as hands:
        hands.start(2)
        assert len(hands.processes) == (2 if how in ("exits", "says something else") else 0)
        calls = crew.in_order(lambda n: hands.call(os.getpid, what=""), range(9), threads=3)
        assert set(calls) == {os.getpid()}


LASTING = """
import sys, time
sys.path.insert(0, sys.argv[1])
from fasttrain.data import crew, workers
hands = workers.Workers()
hands.start(3)
hands.call(divmod, 7, 2, what="")
sleep = lambda n: hands.call(time.sleep, 60, what="")
calls = crew.streamed(sleep, range(3), threads=3, together=1, abandon=hands.stop)
print(*(process.pid for process in hands.processes), flush=True)
with hands:
    next(calls)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_this_process_no_worker_stays(number):
    """Though each is in the middle of a call."""
    command = [sys.executable, "-c", LASTING, str(HERE.parent)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        time.sleep(0.1)
        assert len(alive(pids)) == 3
        began = time.monotonic()
        process.send_signal(number)
        process.wait()
        while alive(pids) and time.monotonic() < began + 10:
            time.sleep(0.01)
    assert time.monotonic() - began < 5
    assert alive(pids) == []


def test_leaving_early_ends_the_processes_at_once(two):
    pids = [process.pid for process in two.processes]
    calls = crew.streamed(
        lambda n: two.call(time.sleep, 60 * n, what=""),
        range(9),
        threads=2,
        together=1,
        abandon=two.stop,
    )
    assert next(calls) is None
    began = time.monotonic()
    calls.close()
    assert time.monotonic() - began < 5
    assert alive(pids) == []


def test_large_images_take_turns_in_processes_too(data, tmp_path, monkeypatch, many):
    """Sixty images of 400 pixels, of which 1,000 may be decoded at a time."""
    monkeypatch.setattr(decoding, "IN_FLIGHT", 1000)
    monkeypatch.setattr(decoding, "TASK_PIXELS", 1)
    monkeypatch.setattr(crew, "cores", lambda: 4)
    now, most, lock, hands = [0], [0], threading.Lock(), workers.Workers()
    real = hands.call

    def call(function, *arguments, what):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.001)
        found = real(function, *arguments, what=what)
        with lock:
            now[0] -= 1
        return found

    listing, source = listing_of(data)
    hands.call = call
    with hands:
        made = prepare.prepare(listing, source, side=16, folder=tmp_path, workers=hands)
    assert most == [2]
    assert (made.images == reference(listing, data, 16)).all()
