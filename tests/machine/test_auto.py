import io
from pathlib import Path

import pytest
import tiny_runs
import torch
from rich.console import Console

import fasttrain
import kernels
from fasttrain.cli import main as cli
from fasttrain.console.console import Display
from fasttrain.engine import build
from fasttrain.errors import EnvironmentProblem
from fasttrain.explain import subject
from fasttrain.machine import auto, memory
from fasttrain.parallel.group import Group
from fasttrain.predict import classifier

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_gpu_that_is_not_there_is_refused_in_one_line():
    assert auto.device("auto") == CPU
    with pytest.raises(EnvironmentProblem, match=r"--device \(cuda\): CUDA is not available"):
        auto.device("cuda")


@pytest.mark.parametrize("name", ["nonsense", "cpu:x", "meta"])
def test_a_device_that_is_none_is_refused(name):
    with pytest.raises(EnvironmentProblem, match="--device"):
        auto.device(name)


@pytest.mark.slow  # reads Linux's own account of the processor
def test_a_cpu_gets_bf16_only_where_it_multiplies_it():
    flags = Path("/proc/cpuinfo").read_text()
    native = "avx512_bf16" in flags or "amx_bf16" in flags or "amx_tile" in flags
    assert auto.amp("auto", CPU).value == ("bf16" if native else "off")
    assert auto.amp("fp16", CPU).value == "fp16"


@pytest.mark.parametrize("asked", ["fp16", "bf16"])
@pytest.mark.parametrize(
    ("has", "native", "better"),
    [
        ({}, (), "off"),
        ({"avx512_bf16": True}, ("bf16",), "bf16"),
        ({"amx_tile": True, "amx_bf16": True}, ("bf16",), "bf16"),
        ({"avx512_fp16": True}, ("fp16",), "off"),
        ({"avx512_fp16": True, "amx_bf16": True}, ("fp16", "bf16"), ""),
    ],
)
def test_what_a_cpu_emulates_is_said_to_be_slow_with_what_to_use(
    asked, has, native, better, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    choice = auto.amp(asked, CPU)
    assert choice.value == asked
    if asked in native:
        assert choice.why == "requested"
    else:
        assert f"no {asked} instructions and is many times slower" in choice.why
        assert choice.why.endswith(f"Use --amp {better}")
    assert auto.amp("off", CPU).why == "requested"


@pytest.mark.parametrize(("amp", "said"), [("fp16", True), ("off", False)])
def test_a_run_in_an_emulated_precision_says_what_to_use(amp, said, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    text = io.StringIO()
    recipe = tiny_runs.small(amp=amp, epochs=1)
    display = Display(Console(file=text, width=200))
    fasttrain.train(recipe, out=tmp_path / "a", display=display)
    line = "  amp fp16 (requested, but this CPU has no fp16 instructions and is many times slower "
    assert (line + "with it. Use --amp off)\n" in text.getvalue()) == said


def test_auto_does_not_compile_on_a_cpu_and_says_why():
    choice = auto.compiled("auto", CPU)
    assert choice.value == "off"
    assert "CPU" in choice.why
    assert auto.compiled("on", CPU).value == "on"


def test_without_a_measurement_auto_does_not_compile_for_a_gpu(monkeypatch):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(kernels, "problem", lambda device: None)
    assert auto.compiled("auto", gpu) == ("off", "not measured")
    assert auto.compiled("on", gpu) == ("on", "requested")


def test_auto_does_not_compile_for_a_gpu_where_triton_cannot_and_says_what_is_missing(monkeypatch):
    """It would end in a traceback after the start: slim images have no compiler."""
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(kernels, "problem", lambda device: "there is neither gcc nor clang")
    assert auto.compiled("auto", gpu) == ("off", "there is neither gcc nor clang")
    assert auto.compiled("off", gpu).why == "requested"
    with pytest.raises(EnvironmentProblem, match=r"--compile \(on\): there is neither gcc nor"):
        auto.compiled("on", gpu)


def test_no_compiler_is_said_before_torch_says_it_in_fifty_lines(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvironmentProblem, match="no C\\+\\+ compiler"):
        auto.compiled("on", CPU)


def test_auto_takes_dali_where_it_imports_and_else_says_what_is_missing():
    assert auto.loader("auto", None).value == "dali"
    assert auto.loader("auto", "DALI is not installed") == (
        "resident",
        "DALI is not installed",
    )
    assert auto.loader("resident", None).value == "resident"


class Reached(Exception):
    """Ends a call at the place that a test is about."""


def reach(device, *rest):
    raise Reached(device)


@pytest.fixture
def four_gpus(monkeypatch):
    """As on a machine with four GPUs, of which the third is this process's own."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", reach)


@pytest.mark.parametrize(("asked", "number"), [("auto", 0), ("cuda", 0), ("cuda:3", 3)])
def test_the_gpu_that_is_asked_for_becomes_the_current_one(
    four_gpus, asked, number, monkeypatch, tmp_path
):
    """Its streams, events and loaders are those of the current device, which is GPU 0 at first."""
    recipe = tiny_runs.small(device=asked)
    with pytest.raises(Reached, match=f"cuda:{number}"):
        build.build(recipe, build.splits(recipe))
    network = torch.nn.Linear(1, 1)
    saved = {"recipe": recipe.as_dict(), "model": network.state_dict()}
    monkeypatch.setattr(classifier.checkpoint, "load", lambda path: saved)
    monkeypatch.setattr(classifier, "network", lambda recipe, **options: network)
    with pytest.raises(Reached, match=f"cuda:{number}"):
        subject.open_run(tmp_path, device=asked)


def test_a_cpu_is_nothing_to_make_current(four_gpus):
    auto.make_current(CPU)


class Third(Group):
    """The third of four processes on a machine."""

    def device(self, chosen):
        return torch.device("cuda", 2)


def test_out_of_memory_is_measured_on_the_process_s_own_gpu(four_gpus, monkeypatch, tmp_path):
    """On GPU 0 each of the others would open a context there, in memory that has run out."""
    monkeypatch.setattr(memory, "reported", lambda batch, device: reach(device))
    with pytest.raises(Reached, match="cuda:2"):
        fasttrain.train(tiny_runs.small(device="cuda"), out=tmp_path / "a", group=Third())


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_out_of_memory_anywhere_else_is_too(four_gpus, monkeypatch, capsys, asked):
    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cli, "run", full)
    monkeypatch.setattr(memory, "peak", lambda device: 0)
    monkeypatch.setattr(memory, "limit", lambda device: memory.GIB)
    assert cli.main([f"--device={asked}"]) == 8
    assert "out of memory on cuda:2" in capsys.readouterr().err
