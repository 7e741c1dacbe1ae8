"""README.md, CONTRIBUTING.md and the pages of docs/ are correct where a test can check it."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shlex
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
import torch
from PIL import Image

import fasttrain
from benchmarks.gpu import __main__ as gpu
from fasttrain.cli import main as cli
from fasttrain.cli.flags import COMMANDS, read
from fasttrain.data import cifar10, own, synthetic
from fasttrain.run import finish
from tests.conftest import tiny_loader, tiny_step

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
README = TEXTS["README.md"]
AHEAD: set[str] = set()
TARGETS = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
EXTRAS = set(re.findall(r'^        "(\w+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE))
PROGRAM = r"python -m|make|torchrun|pip|pre-commit|\.venv/bin/\w+"


def fences(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def lines(text):
    """The commands of a page's shell blocks, without comments, each as its words."""
    for block in fences(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"<this repository>", "URL", line), comments=True)
            for part in re.split(" '(?:&&|[|])' ", " ".join(map(shlex.quote, words))):
                if part:
                    yield shlex.split(part)


def inline(text):
    """The commands in running text and in tables; words in brackets may be left out."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for found in re.findall(rf"`((?:{PROGRAM})\s[^`]+)`", prose):
        yield [word for word in shlex.split(found) if not word.startswith("[")]


def check(words):
    """Assert that a command is one that there is, as far as it can be seen without running it."""
    if "train.py" in words or words[0] in ("yolo", "git", "cd", ".", "pre-commit", "find"):
        return  # other programs'
    if words[0] == "torchrun":
        words = ["python", *words[words.index("-m") :]]
    if words[:3] == ["python", "-m", "fasttrain"]:
        asked = words[3:]
        if ">" in asked:
            asked = asked[: asked.index(">")]
        if "--config" in asked:  # no reader has the page's file
            at = asked.index("--config")
            assert asked.pop(at + 1).endswith((".toml", ".json"))
            asked.pop(at)
        if "--help" in asked:
            with pytest.raises(SystemExit):
                read(asked)
        else:
            read(asked)
    elif words[0] == "make":
        assert words[1] in TARGETS
        given = dict(word.split("=", 1) for word in words[2:])
        assert set(given) <= {"ARGS", "NAME", "WORKERS"}
        options = shlex.split(given.get("ARGS", ""))
        if words[1] in ("train", "sprint"):
            read(options)
        elif words[1] == "gpu":
            gpu.flags().parse_args(options)
        else:
            assert all((ROOT / option).exists() for option in options)
    elif words[:3] == ["python", "-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words if "/" in word)
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), words
    elif words[:2] == ["pip", "install"]:
        wanted = re.findall(r"\[(.*)\]", words[-1])
        assert set(",".join(wanted).split(",")) - {""} <= EXTRAS
        assert words[-1].split("[")[0] in (".", "fasttrain", "pre-commit", "airbench", "wandb")
    else:
        assert words[0] == ".venv/bin/tensorboard", f"no test checks {words}"


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_of_a_page_is_one_that_there_is(page):
    for words in [*lines(TEXTS[page]), *inline(TEXTS[page])]:
        check(words)


@pytest.mark.parametrize(
    "line",
    [
        "python -m fasttrain --epoch 5",
        "python -m fasttrain --epochs 0",
        "python -m fasttrain train-it",
        "torchrun --nproc-per-node 8 -m fasttrain --sched cosine",
        "make trian",
        'make train ARGS="--epochs many"',
        "make test ARGS=tests/test_nothing.py",
        "python -m pytest benchmarks/bench_nothing.py",
        "python -m benchmarks.nothing",
        'pip install ".[cuda]"',
        "fastrain",
    ],
)
def test_a_command_that_there_is_not_is_seen(line):
    with pytest.raises((AssertionError, fasttrain.errors.UsageError)):
        check(shlex.split(line))


def test_the_pages_hold_commands_of_every_form():
    found = [words for text in TEXTS.values() for words in [*lines(text), *inline(text)]]
    assert len(found) > 80
    for start in ("python -m fasttrain", "python -m benchmarks", "make train", "torchrun", "pip"):
        assert any(" ".join(words).startswith(start) for words in found), start


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which the pages' commands run: a data set has 256 images here and the network
    3,000 numbers; the first run's mistakes are explained, and `report` draws them."""
    explained = finish.explain_run

    def explain_run(run, **options):
        if run.name == "taste":
            with pytest.MonkeyPatch.context() as patches:
                patches.setattr(finish, "draw_report", lambda run, **_: None)
                explained(run, **options)
        else:
            tiny_runs.short_report(run)

    few = synthetic.load(256, 64)
    where = tmp_path_factory.mktemp("reader")
    with tiny_runs.shrunk(), pytest.MonkeyPatch.context() as patches:
        patches.chdir(where)
        for number in range(256):
            folder = where / "photos" / ["cat", "dog"][number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(few[0].images[number]).save(folder / f"{number}.png")
        patches.setattr(own, "where", lambda *_: where / "cache")
        patches.setattr(cifar10, "load", lambda *_, **__: few)
        patches.setattr(synthetic, "load", lambda *_, **__: few)
        patches.setattr(cifar10, "describe", lambda *_, **__: {"images": 256})
        patches.setattr(finish, "explain_run", explain_run)
        yield where


def test_the_pages_commands_run_one_after_the_other(world, monkeypatch):
    shown = {" ".join(words): words[3:] for text in TEXTS.values() for words in lines(text)}
    ours = {line: words for line, words in shown.items() if line.startswith("python -m fasttrain")}
    # Slow, or run by the tests of their own pages, or of what `make trackers` installs.
    elsewhere = {"sprint", "doctor", "export", "wandb", "mlflow"}
    quick = {line: words for line, words in ours.items() if not elsewhere & set(words)}
    assert len(quick) >= 12
    made = ("--out runs/taste", ">")  # others need these
    for line in sorted(quick, key=lambda line: not any(each in line for each in made)):
        words, _, file = " ".join(map(shlex.quote, quick[line])).partition(" '>' ")
        short = ["--epochs", "2"] if words.startswith("-") else []
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"photos/cat/0.png\n")))
        with open(file, "w") if file else nullcontext(sys.stdout) as out, redirect_stdout(out):
            assert cli.main([*shlex.split(words), *short]) == 0, line
    for name in (
        "compare.html",
        "rows.csv",
        "runs/taste/report.html",
        "runs/taste/figures/image-7.png",
    ):
        assert (world / name).stat().st_size > 1000, name
    assert len(list(world.glob("runs/*/checkpoints/last.pt"))) >= 6


# docs/python.md is run section by section, in test_python_interface.py.
@pytest.mark.parametrize(
    "page", [page for page in TEXTS if fences(TEXTS[page], "python") and "/python" not in page]
)
def test_a_pages_python_lines_run(page, world, tiny_splits):
    code = "".join(fences(TEXTS[page], "python"))
    split, test = tiny_splits
    step = tiny_step()
    names = {"model": step.model, "optimizer": step.optimizer, "layer": "3"}
    names |= {"images": split.images, "labels": split.labels}
    names |= {"train": tiny_loader(split), "test": tiny_loader(test, training=False)}
    names |= {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    names["schedule"] = fasttrain.optim.schedule.Plateau(
        step.optimizer, patience=3, factor=0.1, threshold=0.001
    )
    if page == "README.md":
        names["images"], names["labels"] = next(iter(names["test"]))
    if page == "docs/trackers.md":
        exec(code, names)
        rows = [("start", {"run": "r"}), ("epoch", {"epoch": 1}), ("end", {"best_epoch": 1})]
        first, *_ = [names["track"](*row) for row in rows]
        assert isinstance(first, str)
        assert Path("told.jsonl").read_text() == '{"epoch": 1}\n{"best": 1}\n'
        return
    if page == "docs/predict.md":
        words = "--dataset photos --epochs 1 --lr 0.05 --overwrite --out runs/photos"
        assert cli.main(words.split()) == 0
        names["image"] = split.images[0]
        exec(code, names)
        assert names["found"].top[0][0] in names["classifier"].classes == ("cat", "dog")
        return
    exec(code, names)
    assert names["rows"][-1].test_accuracy > 0
    assert isinstance(names["step"].lr, torch.Tensor)
    assert names["maps"].shape[1:] == (32, 32)
    assert np.isclose(names["maps"].max(), 1.0)


def test_the_readme_is_a_landing_page():
    assert len(README.splitlines()) <= 150
    first = README.index("```bash")
    assert README[:first].count("![") == README.count("![") == 2, "the curve and the mistakes"
    code = fences(README, "python")
    assert len(code) == 1
    assert len([line for line in code[0].splitlines() if line]) <= 10


def test_it_names_every_command():
    for command in COMMANDS:
        for page in ("README.md", "docs/commands.md"):
            assert re.search(rf"fasttrain \[?{command}\b", TEXTS[page]), command


def anchors(text):
    """What a heading's link ends in."""
    titles = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles]
    return {re.sub(r"[\s-]+", "-", title) for title in plain}


LINKS = [
    (page, link)
    for page, text in TEXTS.items()
    for link in re.findall(r"\]\(([^)]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    if not link.startswith("https:")
]


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_and_pictures_are_there(page, link):
    name, _, anchor = link.partition("#")
    target = (ROOT / page).parent / name if name else ROOT / page
    assert target.exists()
    if anchor:
        assert anchor in anchors(target.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", sorted(set(TEXTS) - AHEAD))
def test_files_that_a_page_names_are_there(page):
    named = r"`((?:fasttrain|kernels|benchmarks|tests|docs)/[\w./-]+)`"
    for name in re.findall(named, TEXTS[page]):
        assert (ROOT / name).exists(), name


def test_every_page_is_in_the_sites_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert f": {path.name}\n" in menu, path.name


def test_every_promise_names_a_test_that_exists():
    section = TEXTS["docs/what-survives.md"].split("## Faults")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    rows = [row for row in rows if not row.startswith("| --- ")]
    assert len(rows) >= 50
    for row in rows:
        named = re.findall(r"`(test_\w+)::(test_\w+)`", row)
        assert named, row
        for module, test in named:
            (path,) = (ROOT / "tests").rglob(f"{module}.py")
            code = path.read_text(encoding="utf-8")
            assert re.search(rf"^def {test}\(", code, re.MULTILINE), f"{module}::{test}"


def test_the_soaks_counts_are_kept_with_their_machine_and_commit():
    found = json.loads((ROOT / "benchmarks" / "results" / "soak.json").read_text())
    assert found["failed"] == []
    assert found["passed"]["kills"] >= 200
    assert found["passed"]["flipped bits and truncations"] >= 3000
    assert found["passed"]["crash points of a whole run"] >= 500
    assert found["passed"]["argument lists"] >= 10_000
    assert found["environment"]["fasttrain"]["commit"]
