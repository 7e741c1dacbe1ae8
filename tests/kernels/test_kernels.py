"""The kernels are an extra: nothing else needs triton, and a GPU's code is made without a GPU."""

from __future__ import annotations

import json
import os
import shutil
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
    monkeypatch.setattr(kernels, "_launcher_problem", lambda: None)
    assert "need a CUDA GPU" in kernels.problem(torch.device("cpu"))
    assert kernels.problem(torch.device("cuda")) is None
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels.problem(torch.device("cpu")) is None


def test_without_a_c_compiler_or_pythons_headers_they_say_which_is_missing(monkeypatch, tmp_path):
    """Triton looks for them only when a kernel is first launched, and then raises."""
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(kernels.shutil, "which", {"gcc": "/usr/bin/gcc"}.get)
    (tmp_path / "Python.h").touch()
    for folder, words in ((tmp_path, None), (tmp_path / "x", f"there is no {tmp_path}/x/Python.h")):
        monkeypatch.setattr(kernels.sysconfig, "get_paths", lambda: {"include": str(folder)})  # noqa: B023
        found = kernels.problem(torch.device("cuda"))
        assert found is None if words is None else found.endswith(words)
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    assert "neither gcc nor clang" in kernels.problem(torch.device("cuda"))
    monkeypatch.setenv("CC", "cc")  # which Triton takes as it is
    assert "Python.h" in kernels.problem(torch.device("cuda"))


COMPILE = """
import json, re, sys, triton
from collections import Counter
from itertools import product
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kernels import augment, sgd, warp

def moves(kernel, fixed, **types):
    '''How often a thread loads and stores, by width, and the size of the machine code.'''
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if "*" in signature[n]}
    source = ASTSource(kernel, signature, constexprs=fixed, attrs=aligned)
    target = GPUTarget("cuda", 90, 32)
    options = {"num_warps": 4, "enable_fp_fusion": False}
    made = triton.compile(source, target=target, options=options).asm
    found = Counter(re.findall(r"(?:ld|st)[.]global(?:[.]v4)?[.]b\\d+", made["ptx"]))
    return found | {"cubin": len(made["cubin"])}

found = {"sgd": {}, "augment": {}, "warp": {}}
for (momentum, nesterov), scaled in product(((1, 1), (1, 0), (0, 0)), (False, True)):
    given = {"table": "*i64", "lr": "*fp32", "momentum": "fp32", "weight_decay": "fp32"}
    fixed = {"MOMENTUM": bool(momentum), "NESTEROV": bool(nesterov), "BLOCK": sgd.BLOCK}
    tensors = ("grad_scale", "found_inf")
    if scaled:
        given |= dict.fromkeys(tensors, "*fp32")
    else:
        fixed |= dict.fromkeys(tensors)
    name = f"momentum {momentum}, nesterov {nesterov}, scaled {scaled}"
    found["sgd"][name] = moves(sgd._sgd_kernel, fixed, **given)
three = ("fp32",) * 3
given = {"images": "*u8", "order": "*i64", "crop": "*i32", "flip": "*i1", "hole": "*i32"}
given |= {"mean": three, "std": three}
of_32 = product(("fp32", "fp16", "bf16"), (False, True), (8,), (32,))
others = [("fp32", False, hole, side) for hole, side in ((0, 32), (8, 28), (8, 64), (8, 224))]
for out, reflect, hole, side in (*of_32, *others):
    fixed = {"HOLE": hole, "REFLECT": reflect, "SIDE": side}
    fixed |= {"BLOCK": augment.BLOCK, "BLOCKS": augment.BLOCKS}
    name = f"{out}, reflect {reflect}, hole {hole}, side {side}"
    found["augment"][name] = moves(augment._augment_kernel, fixed, out=f"*{out}", **given)
given = {"images": "*u8", "order": "*i64", "affine": "*fp32", "colour": "*fp32", "hole": "*i32"}
given |= {"mean": three, "std": three}
for out, reflect, colour, side in (("fp32", True, True, 32), ("fp16", False, False, 224)):
    fixed = {"HOLE": 8, "REFLECT": reflect, "COLOUR": colour, "SIDE": side, "PIXELS": warp.PIXELS}
    name = f"{out}, reflect {reflect}, colour {colour}, side {side}"
    found["warp"][name] = moves(warp._warp_kernel, fixed, out=f"*{out}", **given)
print(json.dumps(found))
"""


def has_ptxas() -> bool:
    triton = pytest.importorskip("triton", reason="triton has wheels for Linux only")
    own = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    return own.exists() or shutil.which("ptxas") is not None


def test_every_variant_is_compiled_for_a_hopper_gpu_and_moves_16_bytes_at_a_time(tmp_path):
    if not has_ptxas():
        pytest.skip("triton has no ptxas on this machine")
    found = json.loads(python(COMPILE, TRITON_CACHE_DIR=str(tmp_path)))
    assert [len(found[name]) for name in ("sgd", "augment", "warp")] == [6, 10, 2]
    for name, moves in found["sgd"].items():
        # 16 numbers a thread: 3 x 4 loads and 2 x 4 stores, and once more one by one for the rest.
        expected = (12, 8) if "momentum 1" in name else (8, 4)
        assert (moves["ld.global.v4.b32"], moves["st.global.v4.b32"]) == expected, name
        assert moves["cubin"], name
    for name, moves in found["augment"].items():
        # 3 x 8 numbers a thread, and a flag: bytes from anywhere, written in order.
        stores = 6 if "fp32" in name else 3
        assert (moves["ld.global.b8"], moves["st.global.v4.b32"]) == (25, stores), name
        assert moves["cubin"], name
    for name, moves in found["warp"].items():
        # 4 pixels a thread: of each the three bytes of four neighbours.
        assert moves["ld.global.b8"] == 4 * 4 * 3, name
        assert moves["cubin"], name
