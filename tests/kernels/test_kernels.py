"""The kernels are an extra: nothing else needs triton, and a GPU's code is made without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kernels

ROOT = Path(__file__).parents[2]


def python(program: str, **env: str) -> str:
    """What `program` prints in a process of its own, where triton compiles."""
    given = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=given | env,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_imports_no_triton():
    program = (
        "import sys, fasttrain.engine.build, fasttrain.optim.sgd, fasttrain.loaders.triton as k;"
    )
    assert python(program + "print('triton' in sys.modules)") == "False\n"


def test_without_triton_the_kernels_say_that_it_is_missing():
    program = (
        "import sys; sys.modules['triton'] = None; import torch, kernels;"
        "print(kernels.problem(torch.device('cuda')))"
    )
    assert python(program).startswith("triton cannot be imported: ")


def test_without_a_gpu_the_kernels_say_that_they_need_one(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "need a CUDA GPU" in kernels.problem(torch.device("cpu"))
    assert kernels.problem(torch.device("cuda")) is None
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels.problem(torch.device("cpu")) is None


COMPILE = """
import json, re, triton
from collections import Counter
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kernels import augment, sgd

FIXED = {"MOMENTUM": True, "NESTEROV": True, "HOLE": 8, "BLOCKS": augment.BLOCKS}

def moves(kernel, block, side=32, **types):
    '''How often a thread of the compiled kernel loads and stores, by width.'''
    names = kernel.arg_names
    given = FIXED | {"SIDE": side}
    fixed = {name: given.get(name, block) for name in names if name.isupper()}
    signature = {name: types.get(name, "constexpr") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if "*" in signature[n]}
    source = ASTSource(kernel, signature, constexprs=fixed, attrs=aligned)
    target = GPUTarget("cuda", 90, 32)
    options = {"num_warps": 4, "enable_fp_fusion": False}
    ptx = triton.compile(source, target=target, options=options).asm["ptx"]
    return Counter(re.findall(r"(?:ld|st)[.]global(?:[.]v4)?[.]b\\d+", ptx))

number, three = "fp32", ("fp32",) * 3
found = [moves(sgd._sgd_kernel, sgd.BLOCK, table="*i64", lr="*fp32", grad_scale="*fp32",
               found_inf="*fp32", momentum=number, weight_decay=number)]
for out, side in (("*fp32", 32), ("*fp16", 32), ("*fp32", 28), ("*fp32", 224)):
    found += [moves(augment._augment_kernel, augment.BLOCK, side, out=out, images="*u8",
                    order="*i64", crop="*i32", flip="*i1", hole="*i32", mean=three, std=three)]
print(json.dumps(found))
"""


def test_for_a_hopper_gpu_they_move_16_bytes_at_a_time(tmp_path):
    pytest.importorskip("triton")
    sgd, augment, half, *others = json.loads(python(COMPILE, TRITON_CACHE_DIR=str(tmp_path)))
    # 16 numbers a thread: 3 x 4 loads and 2 x 4 stores, and once more one by one for the rest.
    assert (sgd["ld.global.v4.b32"], sgd["st.global.v4.b32"]) == (12, 8)
    # 3 x 8 numbers a thread, and a flag: bytes from anywhere, written in order.
    assert (augment["ld.global.b8"], augment["st.global.v4.b32"]) == (25, 6)
    assert (half["ld.global.b8"], half["st.global.v4.b32"]) == (25, 3)
    for side in others:  # 28, with a mask, and 224
        assert (side["ld.global.b8"], side["st.global.v4.b32"]) == (25, 6)
