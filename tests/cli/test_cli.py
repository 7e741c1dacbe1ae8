import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from fasttrain.cli import main as cli
from fasttrain.cli.flags import COMMANDS, parser, read
from fasttrain.cli.help import FIRST
from fasttrain.recipe.recipe import FIELDS, flag, make
from fasttrain.storage import checkpoint


def refused(capsys, *arguments):
    """Exit code and the one line on stderr."""
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fasttrain: error: ")
    assert err.count("\n") == 1
    return code, err


def test_help_answers_within_a_second_and_imports_no_torch():
    took = []
    while not took or (min(took) > 1.0 and len(took) < 5):  # other programs slow down one of them
        began = time.perf_counter()
        command = [sys.executable, "-m", "fasttrain", "--help", "all"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        took.append(time.perf_counter() - began)
    assert min(took) < 1.0
    assert done.returncode == 0
    for name in FIELDS:
        assert flag(name) in done.stdout
    assert "--lr {FLOAT,auto}" in done.stdout
    assert "(default: 50, 1 to 100000)" in " ".join(done.stdout.split())


def shown(capsys, monkeypatch, *arguments):
    """What is printed, for a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    assert end.value.code == 0
    return capsys.readouterr().out


def test_the_first_screen_has_every_command_and_what_a_first_run_needs(capsys, monkeypatch):
    first = shown(capsys, monkeypatch, "--help")
    assert len(first.splitlines()) <= 25, "it fits into a terminal"
    assert all(f"\n  {name} " in first for name in COMMANDS)
    for needed in ("--dataset", "--recipe", "--epochs INT", "--config", "--out", "--resume"):
        assert needed in first
    assert "(50)" in first
    assert "--momentum" not in first
    assert "--help all" in first
    assert shown(capsys, monkeypatch, "-h") == first


@pytest.mark.parametrize("name", COMMANDS)
def test_help_all_has_every_flag_of_a_command_and_help_no_other(name, capsys, monkeypatch):
    every = {o for a in parser(name)._actions for o in a.option_strings if o.startswith("--")}
    found = set(re.findall(r"--[a-z][a-z-]*", shown(capsys, monkeypatch, name, "--help", "all")))
    assert every <= found
    first = set(re.findall(r"^  (--[a-z-]+)", shown(capsys, monkeypatch, name, "--help"), re.M))
    assert first <= every
    assert name in FIRST or len(every) < 25, "a command with many flags has a first screen"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epochs", "0"], "--epochs (0): must be a whole number from 1 to 100000"),
        (
            ["--epoch", "5"],
            "argument ('--epoch'): not known to fasttrain train. Did you mean --epochs?",
        ),
        (["--lr", "nan"], "--lr (nan)"),
        (["--zoom", "1.2,0.8"], "--zoom (1.2,0.8): must be two numbers from 0.2 to 5, the lower"),
        (["--epochs"], "--epochs: expected one argument"),
        (["--resume", "--overwrite"], "not allowed with argument"),
        (["--out", ""], "path ('')"),
        (["trian"], "command (trian): must be one of train"),
        (["--batch-size", "60000"], "from 1 to 50000"),
        (["--recipe", "x" * 500], "..."),
    ],
)
def test_a_slip_on_the_command_line_is_one_line_and_exit_2(capsys, arguments, said):
    code, err = refused(capsys, *arguments)
    assert code == 2
    assert said in err


CHOICES = [
    (flag(name), choice)
    for name, field in FIELDS.items()
    for choice in field.metadata.get("choices", ())
    if len(choice) > 3
]


@pytest.mark.parametrize(("named", "choice"), CHOICES)
def test_a_misspelt_choice_is_answered_with_the_nearest_one(capsys, named, choice):
    swapped = choice[:-2] + choice[-1] + choice[-2]
    for text in {swapped, choice[:-1], choice + "x", choice.upper()} - {choice}:
        code, err = refused(capsys, named, text)
        assert code == 2
        assert f"{named} ({text}): must be one of " in err
        assert err.endswith(f". Did you mean {choice}?\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "command (trian): must be one of train, {commands}. Did you mean train?"),
        (["docter"], "Did you mean doctor?"),
        (["Compare"], "Did you mean compare?"),
        (["find_lr"], "Did you mean find-lr?"),
        (["nothing-like-it"], "See --help."),
        (["explain", "run", "--sample", "randm"], "must be one of confident, random. Did you mean"),
        (["explain", "run", "--sample", "x"], "--sample (x): must be one of confident, random."),
        (["--recipe", "zzz"], "one of resnet18, reference, sprint, modern, finetune. See --help."),
        (["--Epochs", "3"], "Did you mean --epochs?"),
    ],
)
def test_a_misspelt_word_is_answered_with_what_was_meant(capsys, arguments, said):
    code, err = refused(capsys, *arguments)
    assert code == 2
    assert said.format(commands=", ".join(list(COMMANDS)[1:])) in err


def test_the_word_train_may_be_left_out():
    assert read(["--epochs", "3"]) == read(["train", "--epochs", "3"])
    assert read(["--epochs=3"])[2] == {"epochs": 3}


def test_what_a_named_recipe_switches_on_can_be_switched_off():
    given = read(["--recipe", "sprint", "--no-alternate"])[2]
    assert make({"recipe": "sprint"}).alternate
    assert not make(given).alternate


def test_a_flag_is_not_guessed_from_its_beginning(capsys):
    assert refused(capsys, "--momen", "0.9")[0] == 2


SMALL = [
    "--dataset",
    "synthetic",
    "--train-limit",
    "64",
    "--test-limit",
    "32",
    "--batch-size",
    "32",
]


def test_a_batch_larger_than_the_set_is_exit_2(capsys, tmp_path):
    small = [*SMALL[:-1], "65", "--out", str(tmp_path / "a")]
    code = cli.main(small)
    assert code == 2
    assert "--batch-size (65): more than the 64 training images" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_exit_3(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main([*SMALL, "--device", "cuda", "--out", str(tmp_path / "a")]) == 3
    err = capsys.readouterr().err
    assert err.startswith("fasttrain: error: --device (cuda): CUDA is not available")
    assert err.count("\n") == 1


def test_apex_that_is_not_there_is_exit_3(tiny, capsys, tmp_path):
    code = cli.main([*SMALL, "--optimizer", "apex", "--out", str(tmp_path / "a")])
    assert code == 3
    assert "NVIDIA apex is not installed" in capsys.readouterr().err


def test_an_empty_data_folder_is_exit_4(capsys, tmp_path):
    (tmp_path / "data").mkdir()
    given = ["--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "a")]
    assert cli.main(given) == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_a_checkpoint_that_is_none_is_exit_5(capsys, tmp_path):
    assert refused(capsys, "--resume", str(tmp_path / "nosuch.pt"))[0] == 5
    (tmp_path / "README.md").write_text("no checkpoint")
    assert refused(capsys, "--resume", str(tmp_path / "README.md"))[0] == 5


def test_a_file_where_the_run_should_be_is_exit_6(capsys, tmp_path):
    (tmp_path / "a").write_text("in the way")
    assert cli.main([*SMALL, "--out", str(tmp_path / "a")]) == 6
    assert (tmp_path / "a").read_text() == "in the way"


def test_a_rate_that_explodes_is_exit_7(tiny, capsys, tmp_path):
    out = tmp_path / "a"
    code = cli.main([*SMALL, "--lr", "1000", "--epochs", "40", "--out", str(out), "--amp", "off"])
    assert code == 7
    assert "not finite" in capsys.readouterr().err
    for path in out.glob("checkpoints/*.pt"):  # of epochs before the explosion, if there were any
        leaves = torch.utils._pytree.tree_leaves(checkpoint.load(path))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        assert all(tensor.isfinite().all() for tensor in tensors)


LARGE = [
    "--dataset",
    "synthetic",
    "--train-limit",
    "8000",
    "--test-limit",
    "10",
    "--batch-size",
    "8000",
    "--lr",
    "0.1",
]
LARGE += ["--loader", "resident", "--device", "cpu"]


@pytest.mark.slow  # Linux alone holds a process to its address space
def test_a_batch_that_does_not_fit_is_exit_8(tmp_path):
    import resource

    limit = 5 << 30
    done = subprocess.run(
        [sys.executable, "-m", "fasttrain", *LARGE, "--out", str(tmp_path / "a")],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        check=False,
    )
    assert done.returncode == 8
    assert re.fullmatch(
        r"fasttrain: error: --batch-size \(8000\): out of memory on cpu, \d\.\d of 5\.0 GiB at its "
        r"peak\. Try --batch-size 4000, or run `python -m fasttrain doctor --find-batch-size`\.\n",
        done.stderr,
    )
    assert not list((tmp_path / "a").rglob("*.pt"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_says_how_to_resume_and_sets_the_exit_code(tmp_path, number, code):
    out = tmp_path / "a"
    many = [*SMALL, "--recipe", "sprint", "--widths", "8,8,8", "--loader", "resident"]
    many += ["--epochs", "5000", "--lr", "0.05", "--device", "cpu", "--tune", "off"]
    many += ["--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "fasttrain", *many],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("    1  "):
            break
    process.send_signal(number)
    began = time.perf_counter()
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert time.perf_counter() - began < 10
    name = signal.Signals(number).name
    resume = f"python -m fasttrain --resume {out}"
    assert err == f"fasttrain: error: stopped by {name}: saved. Resume with: {resume}\n"
    assert checkpoint.load(out / "checkpoints" / "last.pt")["progress"][0] >= 1
