"""Several processes as one training: what they compute, and that none is left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from processes import flags, one_line
from ranks import DEATHS, Ranks
from tiny_runs import end, same

from fasttrain.cli import main as cli
from fasttrain.engine import build
from fasttrain.engine.evaluation import evaluate
from fasttrain.errors import EnvironmentProblem, UsageError
from fasttrain.parallel import distributed, hang, rendezvous, watch
from fasttrain.parallel.launch import Place
from fasttrain.recipe.recipe import Recipe
from fasttrain.storage import checkpoint

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[1]
STEPS = 3  # an epoch; the warm-up is one call of the step more


def statuses(ended):
    return [each.status for each in ended]


def said(ended):
    """What the processes wrote on stderr, which must be one line of one of them."""
    return one_line("".join(each.err for each in ended))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run of two processes."""
    path = tmp_path_factory.mktemp("ranks") / "whole"
    ended = Ranks(path.with_name("log"), flags(path)).ended()
    assert statuses(ended) == [0, 0]
    assert [each.err for each in ended] == ["", ""]
    assert ended[0].out.count("    2  ") == 1
    assert ended[1].out == ""
    return path


def numbers(path):
    """Weights, buffers and momenta at the end, the sweep's losses, and the epochs' numbers."""
    step, rows = checkpoint.load(path / "checkpoints" / "last.pt")["step"], end(path)["rows"]
    momenta = [values["momentum_buffer"] for values in step["optimizer"]["state"].values()]
    tensors = (*step["model"].values(), *momenta, *step.get("average", {}).values())
    return [value.double() for value in tensors] + [torch.tensor(rows)]


def furthest(a, b):
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


def test_two_processes_at_half_the_batch_compute_what_one_does_at_the_whole(tmp_path):
    """Range test, steps, epochs' numbers; without --sync-bn, the control, they differ."""
    found = {}
    for name, world, more in (("1", 1, []), ("2", 2, ["--sync-bn"]), ("control", 2, [])):
        arguments = flags(tmp_path / name, lr="auto", amp="off") + more
        ended = Ranks(tmp_path / f"log{name}", arguments, world=world, plain=True).ended()
        assert statuses(ended) == [0] * world, ended
        found[name] = numbers(tmp_path / name)
    assert furthest(found["1"], found["2"]) < 1e-5
    assert furthest(found["1"], found["control"]) > 1e-3


def test_two_processes_average_and_mix_as_one_does(tmp_path):
    """Also the evaluations of the average, of which each process has a half."""
    found = []
    for world, more in ((1, []), (2, ["--sync-bn"])):
        path = tmp_path / str(world)
        arguments = flags(path, amp="off", ema=0.9, mixup=0.4, cutmix=1.0) + more
        ended = Ranks(tmp_path / f"log{world}", arguments, world=world, plain=True).ended()
        assert statuses(ended) == [0] * world, ended
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        of_average = [[row["ema_test_loss"], row["ema_test_accuracy"]] for row in rows]
        found.append([*numbers(path), torch.tensor(of_average)])
    assert furthest(*found) < 1e-5


def test_without_synchronised_batchnorm_all_evaluate_the_average_that_is_saved(tiny, tmp_path):
    """Rank 0's: each process has averaged the statistics of its own images."""
    path = tmp_path / "a"
    arguments = flags(path, amp="off", ema=0.5, epochs=1)
    assert statuses(Ranks(tmp_path / "log", arguments, plain=True).ended()) == [0, 0]
    recipe = Recipe(**json.loads((path / "recipe.json").read_text()))
    built = build.build(recipe, build.splits(recipe))
    built.step.load_state_dict(checkpoint.load(path / "checkpoints" / "last.pt")["step"])
    loss, accuracy = evaluate(built.step, built.test, predict=built.step.predict_averaged)
    row = json.loads((path / "metrics.jsonl").read_text())
    assert (row["ema_test_loss"], row["ema_test_accuracy"]) == pytest.approx((loss, accuracy))


def test_compiled_and_in_bf16_too_a_checkpoint_has_the_eager_models_names(whole, tmp_path):
    arguments = flags(tmp_path / "a", compile="on", amp="bf16")
    ended = Ranks(tmp_path / "log", arguments, compiled=True).ended()
    assert statuses(ended) == [0, 0], ended
    names = [
        list(checkpoint.load(path / "checkpoints" / "last.pt")["step"]["model"])
        for path in (whole, tmp_path / "a")
    ]
    assert names[0] == names[1]
    assert not [name for name in names[0] if "module" in name or "_orig_mod" in name]


def stopped(tmp_path, step):
    """A run of which rank 1 alone has got a SIGTERM in call `step` of its step."""
    ended = Ranks(tmp_path / "log", flags(tmp_path / "a"), faults={1: f"SIGTERM@step:{step}"})
    ended = ended.ended()
    assert statuses(ended) == [143, 143]
    assert "stopped by SIGTERM: saved. Resume with" in said(ended)
    return checkpoint.load(tmp_path / "a" / "checkpoints" / "last.pt")


def test_a_signal_to_one_process_stops_all_after_the_same_step_and_they_go_on_bitwise(
    whole, tmp_path
):
    state = stopped(tmp_path, 3)
    assert state["progress"] == [0, 2]
    assert state["run"]["sums"].shape[0] == 2
    shutil.copytree(tmp_path / "a", tmp_path / "control")
    assert statuses(Ranks(tmp_path / "log", flags(tmp_path / "a")).ended()) == [0, 0]
    assert same(end(tmp_path / "a"), end(whole))

    state["run"]["sums"][1] = 0  # the control: what rank 1 had counted is forgotten
    checkpoint.save(tmp_path / "control" / "checkpoints" / "last.pt", state)
    assert statuses(Ranks(tmp_path / "log", flags(tmp_path / "control")).ended()) == [0, 0]
    assert not same(end(tmp_path / "control"), end(whole))


def test_the_number_of_processes_may_change_and_no_image_is_lost(tmp_path):
    stopped(tmp_path, 3)
    (ended,) = Ranks(tmp_path / "log", flags(tmp_path / "a"), world=1).ended()
    assert ended.status == 0
    assert "it had 2 process(es) and goes on with 1" in ended.out
    assert "not bit for bit" in ended.out
    answers = [row[3] * 48 for row in end(tmp_path / "a")["rows"]]
    assert answers == pytest.approx([round(answer) for answer in answers])


@pytest.mark.parametrize(
    ("kind", "dead"),
    [("SIGKILL", 1), ("exception", 1), ("hang", 1), ("hang", 0), ("loop", 1)],
)
def test_a_process_that_dies_or_hangs_takes_all_down_and_is_named(tmp_path, kind, dead):
    ended = Ranks(tmp_path / "log", hasty(tmp_path / "a"), faults={dead: f"{kind}@step:3"})
    dead_is_named(ended.ended(within=20), kind, dead=dead)


def hasty(path, **changes):
    """The flags of a run that hangs after two seconds without progress."""
    return flags(path, hang_timeout=2, **changes)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("step", "the warm-up"),
        ("range test", "the range test"),
        ("step:29", "epoch 1, step 3"),  # after 1 of the warm-up and 25 of the range test
        ("evaluation", "epoch 1, evaluation"),
        ("rates", "a place outside the training"),  # where no deadline is its own
    ],
)
def test_a_hang_is_reported_with_its_place_and_the_stacks_of_all(tmp_path, place, words):
    arguments = hasty(tmp_path / "a", lr="auto")
    ended = Ranks(tmp_path / "log", arguments, faults={1: f"hang@{place}"}).ended(within=20)
    assert statuses(ended) == [9, 9]
    error = (
        r"fasttrain: error: training \(no progress for 2 s\): rank 1 \(pid \d+ on .+\) hangs at "
        rf"{words}, and the others wait for it\. Go on from the last checkpoint with --resume, or "
        r"use a longer --hang-timeout \(0 is none\)\.\n"
    )
    assert len(re.findall(error, "".join(each.err for each in ended))) == 1, ended
    for rank, each in enumerate(ended):
        assert re.search(rf"^rank {rank}, at .+:\n", each.err, re.MULTILINE), each
        assert re.search(r'^  File ".+loop\.py|lr_finder\.py|train\.py"', each.err, re.MULTILINE)
    assert re.search(r'File ".+ranks\.py", line \d+ in <lambda>', ended[1].err)


def test_where_all_hang_at_the_same_place_none_is_named(tmp_path):
    faults = {0: "hang@step:3", 1: "hang@step:3"}
    ended = Ranks(tmp_path / "log", hasty(tmp_path / "a"), faults=faults).ended(within=20)
    assert statuses(ended) == [9, 9]
    lines = re.findall("^fasttrain: .*", "".join(each.err for each in ended), re.MULTILINE)
    assert len(lines) == 1
    assert re.search(r"no process goes on; rank \d is at epoch 1, step 2", lines[0])


def test_outside_the_training_a_hang_is_found_when_the_others_have_waited_for_long(tmp_path):
    """The second net: the time limit of a collective."""
    ended = Ranks(tmp_path / "log", flags(tmp_path / "a"), faults={1: "hang@data"}).ended()
    dead_is_named(ended, "loop", dead=1)
    assert "does not respond" in ended[0].err


def test_who_is_slow_and_who_waits_for_it_are_not_taken_for_hanging(tmp_path):
    """In each phase one computes or waits for its disk, for nearly as long as the deadline."""
    faults = {0: "slow@data,wait@disk:8", 1: "slow@step:3,slow@evaluation"}
    ended = Ranks(tmp_path / "log", hasty(tmp_path / "a"), faults=faults).ended()
    assert statuses(ended) == [0, 0], ended


def test_without_a_deadline_a_collective_may_wait_for_longer_than_its_limit(tmp_path):
    arguments = flags(tmp_path / "a", hang_timeout=0)
    ended = Ranks(tmp_path / "log", arguments, faults={1: "long@step:3"}).ended()
    assert statuses(ended) == [0, 0], ended


def test_processes_that_were_stopped_together_and_go_on_are_not_taken_for_dead(tmp_path):
    """As by Ctrl-Z and fg, or on a machine that slept: for longer than the dead are silent."""
    faults = {0: "SIGSTOP@step:3,slow@step:3"}  # it watches the other, which stops before it
    faults[1] = "SIGSTOP@step:3,slow@step:4,slow@evaluation"  # time in which they could be ended
    ranks = Ranks(tmp_path / "log", hasty(tmp_path / "a"), faults=faults)
    for process in ranks.processes:
        while state(process.pid) != "T":
            time.sleep(0.05)
    time.sleep(3)
    for process in ranks.processes:
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.3)
    assert statuses(ranks.ended()) == [0, 0]


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.soak
@pytest.mark.parametrize("place", ["data", "step:2", "step:7", "evaluation:2", "save:5"])
@pytest.mark.parametrize("kind", DEATHS)
@pytest.mark.parametrize("world", [2, 3])
def test_any_death_at_any_moment_takes_all_down(tmp_path, kind, place, world, record_property):
    dead = 0 if "save" in place else 1
    arguments = hasty(tmp_path / "a", batch_size=12)
    ended = Ranks(tmp_path / "log", arguments, faults={dead: f"{kind}@{place}"}, world=world)
    dead_is_named(ended.ended(within=25), kind, dead=dead)
    record_property("deaths of a process that took all down", 1)


def test_the_real_limits_leave_half_a_minute():
    """What a death may take to be noticed, and then to end every process."""
    assert watch.LOST + hang.BEAT + watch.GRACE < 30


@pytest.mark.soak
@pytest.mark.parametrize("kind", DEATHS)
def test_with_the_real_limits_too_all_are_down_in_half_a_minute(tmp_path, kind, record_property):
    arguments = flags(tmp_path / "a", hang_timeout=15)
    ended = Ranks(tmp_path / "log", arguments, faults={1: f"{kind}@step:3"}, patient=True)
    dead_is_named(ended.ended(within=30), kind, dead=1)
    record_property("deaths of a process that took all down", 1)


def dead_is_named(ended, kind, *, dead):
    """The survivors have exit code 9, and one process names the dead one."""
    survivors = [each for rank, each in enumerate(ended) if rank != dead]
    assert statuses(survivors) == [9] * len(survivors), ended
    hangs = kind in ("hang", "loop")
    reporters = ended if hangs else survivors
    if dead == 0 and not hangs:  # it held the store through which they speak
        assert any("rank 0" in each.err for each in survivors), ended
    else:
        # Where rank 0 holds the store, torch itself may say, at length, that it has gone.
        lines = re.findall("^fasttrain: .*", "".join(each.err for each in reporters), re.MULTILINE)
        assert len(lines) == 1, lines
        words = "died|does not respond|ended with|hangs"
        assert re.search(rf"error: (training \(.+\): )?rank {dead} .*({words})", lines[0])
    assert ended[dead].status != 0


@pytest.mark.parametrize("stuck", ["destroy", "leave"])
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_is_reported_also_where_the_end_of_the_group_hangs(tmp_path, rank, stuck):
    faults = {rank: f"data error@data,hang@{stuck}"}
    ended = Ranks(tmp_path / "log", flags(tmp_path / "a"), faults=faults).ended(within=20)
    assert statuses(ended) == [4, 4], ended
    # Where rank 0 left before, torch itself says, at length, that its store has gone.
    lines = re.findall("^fasttrain: .*", "".join(each.err for each in ended), re.MULTILINE)
    assert lines == ["fasttrain: error: train_images: damaged. Fetch them again."]


@pytest.mark.parametrize("dead", [0, 1])
def test_a_death_is_reported_also_where_the_end_of_the_group_hangs(tmp_path, dead):
    """As NCCL's does, for a process that died: it waits for all that was begun."""
    faults = {dead: "SIGKILL@step:2", 1 - dead: "hang@destroy"}
    ended = Ranks(tmp_path / "log", flags(tmp_path / "a"), faults=faults).ended(within=30)
    dead_is_named(ended, "SIGKILL", dead=dead)


def test_an_error_of_one_process_ends_all_with_its_code_and_one_message(tmp_path):
    faults = {
        "full disk@disk:2": (0, 6, "No space left"),
        "data error@data": (1, 4, "train_images: damaged"),
    }
    for number, (fault, (rank, code, words)) in enumerate(faults.items()):
        path = tmp_path / str(number)
        ended = Ranks(tmp_path / f"log{number}", flags(path), faults={rank: fault}).ended(within=20)
        assert statuses(ended) == [code, code], ended
        assert words in said(ended)


def test_numbers_that_are_not_finite_end_all_after_the_same_step(tmp_path):
    ended = Ranks(tmp_path / "log", flags(tmp_path / "a", lr=1000, epochs=40)).ended()
    assert statuses(ended) == [7, 7]
    assert "not finite" in said(ended)


@pytest.mark.parametrize(("what", "step"), [("images", 1), ("gradient", 2)])
def test_a_nan_in_one_process_ends_all_after_the_same_step_and_is_not_saved(tmp_path, what, step):
    """In the second epoch's first step, of which a gradient shows in the next loss."""
    faults = {1: f"NaN {what}@step:{STEPS + 2}"}
    ended = Ranks(tmp_path / "log", flags(tmp_path / "a"), faults=faults).ended()
    assert statuses(ended) == [7, 7], ended
    assert f"not finite in epoch 2, at step {step}, at lr 0.05" in said(ended)
    for name in ("last.pt", "best.pt"):
        found = checkpoint.load(tmp_path / "a" / "checkpoints" / name)
        assert found["progress"] == [1, 0], "the epoch before; load refuses what is not finite"


def test_a_run_directory_in_use_is_said_once(whole, tmp_path):
    (tmp_path / "file").write_text("not a run")
    arguments = [word for word in flags(tmp_path) if word != "--resume"]
    ended = Ranks(tmp_path / "log", arguments).ended()
    assert statuses(ended) == [6, 6]
    assert "holds files but no run" in said(ended)


def test_a_batch_that_cannot_be_shared_equally_is_refused_with_those_that_can(tmp_path):
    ended = Ranks(tmp_path / "log", flags(tmp_path / "a", batch_size=15)).ended()
    assert statuses(ended) == [2, 2]
    assert "Nearest: 14 or 16." in said(ended)
    assert not (tmp_path / "a").exists()


def test_a_port_in_use_and_a_process_that_never_comes_are_said_with_host_and_port(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (ended,) = Ranks(tmp_path / "log", flags(tmp_path / "a"), only=0, port=port).ended()
        assert ended.status == 9
        assert f"127.0.0.1:{port}" in ended.err.splitlines()[-1]
    alone = Ranks(tmp_path / "log", flags(tmp_path / "a"), only=0)
    (ended,) = alone.ended(within=20)
    assert ended.status == 9
    assert "rank 0 of 2 cannot join" in ended.err.splitlines()[-1]


def test_a_start_is_not_taken_for_an_earlier_one_whose_keys_are_still_there():
    store = torch.distributed.HashStore()
    names = []
    for _ in range(3):  # as torchrun restarts its processes, in any order
        found = in_threads(
            [partial(rendezvous.agree_on_start, store, rank, 3) for rank in (2, 0, 1)]
        )
        assert len(set(found)) == 1
        names += found[:1]
    assert len(set(names)) == 3


def in_threads(calls):
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def torchrun(tmp_path, *lines, options=()):
    """The real torchrun with two processes, which run `lines` before they train into tmp_path/a."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, time, tiny_runs, torch, ranks\n"
        "from fasttrain.__main__ import main\n"
        "torch.set_num_threads(1)\n"
        "tiny_runs.shrink(tiny_runs.Patches)\n"
        "ranks.hurry()\n" + "".join(f"{line}\n" for line in lines) + "main()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    return subprocess.Popen(
        [*command, "2", *options, str(worker), *flags(tmp_path / "a")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (HERE.parent, HERE))),
            "OMP_NUM_THREADS": "1",
        },
    )


def test_a_start_after_a_death_ends_bitwise_as_a_run_that_nothing_befell(whole, tmp_path):
    """As torchrun starts all anew; rank 1 kills itself in the second epoch of its first life."""
    ended = Ranks(tmp_path / "log", flags(tmp_path / "a"), faults={1: "SIGKILL@step:6"}).ended()
    dead_is_named(ended, "SIGKILL", dead=1)
    ended = Ranks(tmp_path / "log", flags(tmp_path / "a")).ended()
    assert statuses(ended) == [0, 0]
    assert "resuming" in ended[0].out
    assert same(end(tmp_path / "a"), end(whole))


@pytest.mark.soak
def test_after_torchrun_restarts_it_a_run_ends_bitwise_as_one_that_nothing_befell(whole, tmp_path):
    """The real torchrun; rank 1 kills itself in the second epoch of its first life."""
    started = torchrun(
        tmp_path,
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] + os.environ['RANK'] == '01':",
        "    ranks.plant('SIGKILL@step:6')",
        options=("--max-restarts", "1"),
    )
    out, err = started.communicate(timeout=120)
    assert started.returncode == 0, err
    assert len(re.findall("fasttrain: error: rank 1 .* died", err)) == 1, err
    assert "resuming" in out
    assert same(end(tmp_path / "a"), end(whole))


def test_a_sigterm_to_torchrun_itself_saves_and_the_run_goes_on_bitwise(whole, tmp_path):
    there = tmp_path / "there"
    started = torchrun(
        tmp_path,
        f"ranks.FAULTS['tell'] = lambda: (open({str(there)!r}, 'w').close(), time.sleep(2))",
        "ranks.plant('tell@step:6')",
    )
    until = time.monotonic() + 60
    while not there.exists():
        assert time.monotonic() < until
        assert started.poll() is None, started.communicate()
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 1, "torchrun's own status, whatever those of its processes are"
    assert len(re.findall("fasttrain: error: stopped by SIGTERM: saved. Resume", err)) == 1, err
    assert checkpoint.load(tmp_path / "a" / "checkpoints" / "last.pt")["progress"] == [1, 2]
    assert statuses(Ranks(tmp_path / "log", flags(tmp_path / "a")).ended()) == [0, 0]
    assert same(end(tmp_path / "a"), end(whole))


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    eight = Place(rank=0, world=8, local_rank=0, local_world=8)
    with pytest.raises(EnvironmentProblem, match=r"--nproc-per-node \(8\): only 4 GPU"):
        rendezvous.backend(eight, "auto")
    with pytest.raises(UsageError, match=r"--device \(cuda:1\)"):
        rendezvous.backend(eight, "cuda:1")
    assert rendezvous.backend(eight, "cpu") == "gloo"


def test_a_half_set_environment_is_refused_before_torch_is_imported(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    assert cli.main(["--dataset", "synthetic"]) == 2
    assert "WORLD_SIZE (not set): RANK is" in one_line(capsys.readouterr().err)


def test_only_training_and_its_range_test_run_in_several_processes(monkeypatch, capsys):
    for name, value in Place(world=2, local_world=2, port=1, host="here")._asdict().items():
        name = {"world": "WORLD_SIZE", "local_world": "LOCAL_WORLD_SIZE"}.get(name, name.upper())
        name = {"PORT": "MASTER_PORT", "HOST": "MASTER_ADDR"}.get(name, name)
        monkeypatch.setenv(name, str(value))
    assert cli.main(["report", "runs/none"]) == 2
    assert cli.main(["--runs", "2"]) == 2
    assert capsys.readouterr().err.count("needs one process") == 2


def test_a_process_alone_is_a_group_of_one_without_cost():
    with distributed.joined(Place()) as group:
        assert (group.rank, group.world, group.first) == (0, 1, True)
        tensor = torch.arange(3.0)
        assert group.sum(tensor) is tensor
        assert group.gather(tensor) is tensor
        assert torch.equal(group.own_row(tensor), tensor)
        assert group.max(7) == 7
        assert not torch.distributed.is_initialized()
