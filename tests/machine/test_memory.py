"""Running out of memory is reported with batch, peak and a smaller batch; nothing is changed."""

import re

import pytest
import torch

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.engine.step import Step
from fasttrain.errors import OutOfMemory
from fasttrain.machine import memory
from fasttrain.machine.allocator import release_pages
from tests.run.test_train import small

CPU = torch.device("cpu")
WORDS = [
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory",
    "could not create a memory object",
    "std::bad_alloc",
    "CUDA error: out of memory",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "GET was unable to find an engine to execute this computation",
]


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_errors_with_a_class_of_their_own_are_recognised(error):
    assert memory.is_out_of_memory(error, 1)


@pytest.mark.parametrize("words", WORDS)
def test_errors_that_only_say_it_are_recognised_and_other_errors_go_on(words):
    with pytest.raises(OutOfMemory), memory.reported(128, CPU):
        raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="shape"), memory.reported(128, CPU):
        raise RuntimeError("wrong shape")
    with pytest.raises(ValueError, match="memory"), memory.reported(128, CPU):
        raise ValueError("memory object")


def test_without_an_engine_for_a_single_image_memory_is_not_what_is_missing():
    error = RuntimeError("GET was unable to find an engine to execute this computation")
    assert memory.is_out_of_memory(error, 2)
    assert not memory.is_out_of_memory(error, 1)


def failed_capture(*, hidden=False):
    """The error that leaves the capture of a graph in which an error was raised."""
    try:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            what = "CUDA error: operation failed due to a previous error during capture"
            if hidden:
                raise RuntimeError(what) from None
            raise RuntimeError(what)
    except RuntimeError as error:
        return error


def test_full_memory_inside_a_capture_is_found_behind_the_error_of_the_capture():
    with pytest.raises(OutOfMemory), memory.reported(128, CPU):
        raise failed_capture()
    with pytest.raises(RuntimeError, match="during capture"), memory.reported(128, CPU):
        raise failed_capture(hidden=True)


def test_the_line_names_batch_peak_limit_and_half_the_batch():
    said = str(memory.out_of_memory(384, CPU))
    assert re.fullmatch(
        r"--batch-size \(384\): out of memory on cpu, \d+\.\d of \d+\.\d GiB at its peak\. "
        r"Try --batch-size 192, or run `python -m fasttrain doctor --find-batch-size`\.",
        said,
    )
    assert "Use a device with more memory" in str(memory.out_of_memory(1, CPU))


def test_a_gpus_line_has_torchs_peak_and_all_of_its_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 79 << 30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 80 << 30))
    said = str(memory.out_of_memory(8192, torch.device("cuda", 0)))
    assert "out of memory on cuda:0, 79.0 of 80.0 GiB at its peak. Try --batch-size 4096" in said


class Full:
    """A GPU's memory that is full at the given step."""

    def __init__(self, at):
        self.at, self.seen, self.call = at, 0, Step.__call__

    def __call__(self, step, images, labels):
        self.seen += 1
        if self.seen == self.at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.call(step, images, labels)


def test_a_full_gpu_ends_a_run_with_8_and_the_batch_stays_what_it_was(
    tiny, tmp_path, monkeypatch, capsys
):
    full = Full(2)
    monkeypatch.setattr(Step, "__call__", lambda *args: full(*args))
    with pytest.raises(OutOfMemory, match=r"--batch-size \(16\).* Try --batch-size 8") as caught:
        fasttrain.train(small(), out=tmp_path / "a")
    assert caught.value.code == 8
    assert not (tmp_path / "a").exists(), "it never trained"
    assert full.seen == 2  # it was not tried again
    full.at = 3
    words = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in small().as_dict().items()
        if name in ("dataset", "train_limit", "test_limit", "batch_size", "device")
    ]
    assert cli.main(["find-lr", *words]) == 8
    err = capsys.readouterr().err
    assert err.startswith("fasttrain: error: --batch-size (16): out of memory on cpu")
    assert err.count("\n") == 1


def test_the_limit_is_the_least_of_machine_container_and_ulimit(tmp_path, monkeypatch):
    whole = memory.limit(CPU)
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "least").write_text(f"{1 << 28}\n")
    monkeypatch.setattr(memory, "CGROUPS", (str(tmp_path / "max"), str(tmp_path / "nosuch")))
    assert memory.limit(CPU) >= whole > 1 << 28
    monkeypatch.setattr(memory, "CGROUPS", (str(tmp_path / "least"),))
    assert memory.limit(CPU) == 1 << 28
    assert memory.available(CPU) <= 1 << 28


def test_the_peak_of_a_block_is_its_own():
    def taken(megabytes):
        release_pages()
        before = memory.resident()
        with memory.peak_of() as found:
            torch.ones(megabytes << 18)
        return found[0] - before

    assert 350 << 20 < taken(400) < 600 << 20
    assert 80 << 20 < taken(100) < 250 << 20  # and not the peak of before
    assert memory.peak(CPU) > 400 << 20
