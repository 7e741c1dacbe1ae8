from pathlib import Path

import pytest
import torch

from fasttrain import choices
from fasttrain.errors import EnvironmentProblem

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_gpu_that_is_not_there_is_refused_in_one_line():
    assert choices.device("auto") == CPU
    with pytest.raises(EnvironmentProblem, match=r"--device \(cuda\): CUDA is not available"):
        choices.device("cuda")


@pytest.mark.parametrize("name", ["nonsense", "cpu:x", "meta"])
def test_a_device_that_is_none_is_refused(name):
    with pytest.raises(EnvironmentProblem, match="--device"):
        choices.device(name)


@pytest.mark.slow  # reads Linux's own account of the processor
def test_a_cpu_gets_bf16_only_where_it_multiplies_it():
    flags = Path("/proc/cpuinfo").read_text()
    native = "avx512_bf16" in flags or "amx_bf16" in flags or "amx_tile" in flags
    assert choices.amp("auto", CPU).value == ("bf16" if native else "off")
    assert choices.amp("fp16", CPU).value == "fp16"


def test_auto_does_not_compile_on_a_cpu_and_says_why():
    choice = choices.compiled("auto", CPU, steps=10**6)
    assert choice.value == "off"
    assert "CPU" in choice.why
    assert choices.compiled("on", CPU, steps=1).value == "on"


def test_auto_compiles_for_a_gpu_only_where_the_run_is_long_enough():
    gpu = torch.device("cuda", 0)
    assert choices.compiled("auto", gpu, steps=100).value == "off"
    assert choices.compiled("auto", gpu, steps=19_500).value == "on"


def test_no_compiler_is_said_before_torch_says_it_in_fifty_lines(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvironmentProblem, match="no C\\+\\+ compiler"):
        choices.compiled("on", CPU, steps=1)


def test_auto_takes_dali_where_it_imports_and_else_says_what_is_missing():
    assert choices.loader("auto", None).value == "dali"
    assert choices.loader("auto", "DALI is not installed") == (
        "resident",
        "DALI is not installed",
    )
    assert choices.loader("resident", None).value == "resident"
