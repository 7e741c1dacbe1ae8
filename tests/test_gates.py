"""Constructs that no source file may contain, found in its syntax tree, not in its comments."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("fasttrain", "kernels", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
UNPICKLE = {"load", "loads", "Unpickler", "_Unpickler"}
BANNED_CALLS = {
    "eval": "eval",
    "exec": "exec",
    "os.system": "os.system",
    "os.popen": "os.popen",
    "yaml.load": "yaml.load",
    "yaml.unsafe_load": "yaml.load",
    "joblib.load": "unpickling",
    "dill.load": "unpickling",
    "dill.loads": "unpickling",
    "marshal.loads": "unpickling",
    "shelve.open": "unpickling",
    "pandas.read_pickle": "unpickling",
    "torch.jit.load": "unpickling",
    "torch.package.PackageImporter": "unpickling",
    "shutil.unpack_archive": "extractall",
    "tempfile.mktemp": "a name that another may take",
}


def name_of(node: ast.AST) -> str:
    """torch.load -> "torch.load"; what is no plain name ends at its last attribute."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def aliases(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {n.asname: n.name for n in node.names if n.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {n.asname or n.name: f"{node.module}.{n.name}" for n in node.names}
    return found


def violations(source: str) -> Iterator[str]:
    """What of the banned a source does."""
    tree = ast.parse(source)
    known = aliases(tree)
    inside = {id(part) for node in ast.walk(tree) for part in documentation(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from of_call(node, known)
        elif isinstance(node, ast.ExceptHandler):
            yield from of_handler(node)
        elif isinstance(node, ast.Attribute) and name_of(node).startswith("pickle."):
            if node.attr in UNPICKLE:
                yield "unpickling"
        elif isinstance(node, ast.Constant) and "http://" in str(node.value):
            yield from [] if id(node) in inside else ["http"]


def documentation(node: ast.AST) -> Iterator[ast.AST]:
    """The docstring of a module, class or function."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
        yield node.body[0].value  # type: ignore[attr-defined]


def of_call(node: ast.Call, known: dict[str, str]) -> Iterator[str]:
    called = name_of(node.func)
    head, dot, rest = called.partition(".")
    called = known.get(head, head) + dot + rest
    options = {word.arg: word.value for word in node.keywords}
    if called in BANNED_CALLS:
        yield BANNED_CALLS[called]
    if called in {f"pickle.{name}" for name in UNPICKLE}:
        yield "unpickling"
    if called.rpartition(".")[2] in ("extractall", "extract"):
        yield "extractall"
    if called == "torch.load" and not is_constant(options.get("weights_only"), True):
        yield "torch.load"
    if "shell" in options and not is_constant(options["shell"], False):
        yield "shell"
    if called.rpartition(".")[2] == "suppress":
        everything = {"Exception", "BaseException"} & set(map(name_of, node.args))
        yield from ["an error swallowed"] if everything else []
    if called in ("numpy.load", "np.load") and not is_constant(options.get("allow_pickle"), False):
        yield "unpickling"


def of_handler(node: ast.ExceptHandler) -> Iterator[str]:
    if node.type is None:
        yield "bare except"
    broad = node.type is not None and name_of(node.type) in ("Exception", "BaseException")
    silent = all(isinstance(line, ast.Pass) or is_constant(line, ...) for line in node.body)
    if broad and silent:
        yield "an error swallowed"


def is_constant(node: ast.AST | None, value: object) -> bool:
    node = node.value if isinstance(node, ast.Expr) else node
    return isinstance(node, ast.Constant) and node.value is value


# A process and its own child talk over a pipe that no one else has; an address of this machine.
ALLOWED = {
    "fasttrain/data/worker.py": {"unpickling"},
    "fasttrain/data/workers.py": {"unpickling"},
    "fasttrain/serve/server.py": {"http"},
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_of_ours_does_what_is_banned(path):
    allowed = ALLOWED.get(str(path.relative_to(ROOT)), set())
    assert set(violations(path.read_text(encoding="utf-8"))) == allowed


CONTROLS = {
    "import torch; torch.load(f)": "torch.load",
    "import torch; torch.load(f, weights_only=False)": "torch.load",
    "import torch; torch.load(f, weights_only=safe)": "torch.load",
    "from torch import load; load(f)": "torch.load",
    "import torch as t; t.load(f)": "torch.load",
    "import pickle; pickle.load(f)": "unpickling",
    "from pickle import loads as read; read(f)": "unpickling",
    "import pickle; Read = pickle.Unpickler": "unpickling",
    "import numpy as np; np.load(f)": "unpickling",
    "import numpy as np; np.load(f, allow_pickle=True)": "unpickling",
    "import torch; torch.jit.load(f)": "unpickling",
    "archive.extractall(path)": "extractall",
    "with tarfile.open(f) as packed: packed.extract('x')": "extractall",
    "import shutil; shutil.unpack_archive(f)": "extractall",
    "URL = 'http://example.com'": "http",
    "URL = f'http://{host}'": "http",
    "try: f()\nexcept: g()": "bare except",
    "try: f()\nexcept Exception: pass": "an error swallowed",
    "try: f()\nexcept Exception as error: ...": "an error swallowed",
    "with suppress(OSError, Exception): f()": "an error swallowed",
    "import yaml; yaml.load(f)": "yaml.load",
    "import os; os.system('x')": "os.system",
    "from os import system; system('x')": "os.system",
    "import subprocess; subprocess.run('x', shell=True)": "shell",
    "eval(text)": "eval",
    "exec(text)": "exec",
}


@pytest.mark.parametrize("source", CONTROLS)
def test_each_gate_sees_what_it_is_for(source):
    assert CONTROLS[source] in list(violations(source))


@pytest.mark.parametrize(
    "source",
    [
        '"""Never http://, never eval(x)."""',
        "# pickle.load(f)",
        "import torch; torch.load(f, weights_only=True)",
        "model.eval()",
        "import json; json.load(f)",
        "try: f()\nexcept Exception as error: raise Bad from error",
        "import numpy as np; np.load(f, allow_pickle=False)",
    ],
)
def test_what_is_allowed_passes(source):
    assert list(violations(source)) == []
