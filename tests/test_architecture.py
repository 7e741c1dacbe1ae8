"""The arrows of the house never turn round, and no file grows a second responsibility."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = {
    "errors",
    "draws",
    "recipe",
    "data",
    "models",
    "trace",
    "step",
    "optim",
    "schedule",
    "side_by_side",
}
MAY_IMPORT = {
    **{
        name: set()
        for name in ("errors", "draws", "models", "schedule", "ledger", "analysis", "intervals")
    },
    **{name: {"errors"} for name in ("lr_finder", "gradcam", "report", "choices", "fields")},
    **{name: {"errors"} for name in ("memory", "values")},
    **{name: {"errors"} for name in ("launch", "tally")},
    "texts": set(),
    "files": {"errors", "texts"},
    "signals": {"errors", "launch"},
    "group": {"launch"},
    "stillness": set(),
    "watch": {"stillness"},
    "meeting": {"errors", "launch", "watch"},
    "distributed": {"", "errors", "group", "launch", "meeting", "signals", "watch"},
    "bystander": set(),
    "together": {"group", "loop", "signals"},
    "recipe": {"fields", "named"},
    "named": {"fields"},
    "data": {"errors", "draws", "files", "kernels"},
    "trace": {"files"},
    "timeline": {"intervals"},
    "bottleneck": set(),
    "probe": {"data", "step", "timeline", "trace"},
    "measure": {"bottleneck", "build", "choices", "data", "errors", "ledger", "probe", "recipe"},
    "inventory": {"", "data", "environment", "optim"},
    "largest": {"allocator", "lr_finder", "memory", "step"},
    "doctor": {"bottleneck", "build", "data", "display", "inventory", "largest", "measure"}
    | {"recipe"},
    "profiling": {"", "build", "display", "files", "loop", "rundir", "texts", "timeline"}
    | {"trace"},
    "optim": {"errors", "kernels", "kernel_sgd", "muon"},
    "kernel_sgd": {"kernels"},
    "kernels": set(),
    "step": {"trace"},
    "side_by_side": set(),
    "graphs": {"lr_finder", "step"},
    "loop": {"data", "errors", "step", "tally", "trace"},
    "eta": {"loop"},
    "progress": {"eta", "loop"},
    "display": {"eta", "progress"},
    "scalars": {"files", "loop"},
    "checkpoint": {"errors", "files"},
    "claim": {"errors", "files"},
    "streams": set(),
    "rundir": {"claim", "errors", "files", "checkpoint", "texts"},
    "environment": {""},
    "resume": {"errors", "group", "loop", "recipe", "schedule", "step", "tally"},
    "saving": {"bystander", "ledger", "loop", "resume", "rundir"},
    "build": PARTS - {"optim"}
    | {"allocator", "choices", "group", "loaders", "network"}
    | {"graphs", "side_by_side"},
    "network": {"errors", "models", "optim", "recipe"},
    "loaders": {"data", "draws", "errors", "group", "launch", "recipe"},
    "range_test": {"build", "display", "group", "lr_finder", "recipe"},
    "allocator": set(),
    "muon": set(),
    "reckoning": {"build", "eta", "group", "ledger", "loop", "recipe"},
    "series": {"", "claim", "commands", "display", "environment", "files", "recipe", "rundir"},
    "training": {"build", "bystander", "data", "display", "errors", "eta", "group", "ledger"}
    | {"loop", "lr_finder", "profiling", "range_test", "reckoning", "recipe", "resume"}
    | {"rundir", "saving", "scalars", "signals", "together"},
    "explain": {"analysis", "build", "checkpoint", "choices", "data", "errors", "files"}
    | {"gradcam", "loaders", "network", "recipe"},
    "opening": {"bystander", "checkpoint", "claim", "display", "group", "loop", "recipe"}
    | {"resume", "rundir"},
    "commands": {"build", "choices", "data", "display", "memory"}
    | {"environment", "errors", "explain", "ledger"}
    | {"loop", "lr_finder", "opening", "reckoning", "recipe", "report", "resume", "signals"}
    | {"distributed", "group", "launch", "range_test", "training"},
    "flags": {"", "errors", "recipe", "values"},
    "cli": {"claim", "commands", "series", "data", "doctor", "errors", "flags", "display"}
    | {"choices", "distributed", "launch", "memory", "recipe", "streams"},
    "__main__": {"cli", "signals", "streams"},
    "": set(),
}
ONE_HOME = {
    "nvidia": {"fasttrain/data/dali.py"},
    "apex": {"fasttrain/optim.py"},
    "triton": {"kernels/__init__.py", "kernels/augment.py", "kernels/sgd.py"},
    "rich": {"fasttrain/progress.py", "fasttrain/display.py", "fasttrain/cli.py"},
    "tensorboard": {"fasttrain/scalars.py"},
    "PIL": {"fasttrain/data/decode.py", "fasttrain/report/tiles.py"}
    | {f"fasttrain/data/{name}.py" for name in ("arrays", "found", "making", "packed")}
    | {f"fasttrain/data/{name}.py" for name in ("pictures", "scan")},
    "pyarrow": {"fasttrain/data/packed.py"},
}
SOURCES = sorted([*ROOT.glob("fasttrain/**/*.py"), *ROOT.glob("kernels/*.py")])


def part(path: Path) -> str:
    """fasttrain/data/dali.py -> data, fasttrain/step.py -> step, kernels/sgd.py -> kernels."""
    names = path.relative_to(ROOT).with_suffix("").parts
    inside = names[1:] if names[0] == "fasttrain" else names[:1]
    return "" if inside[0] == "__init__" else inside[0]


def imports(path: Path) -> set[str]:
    """Absolute names of every module that the file imports, wherever in it."""
    package = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            stem = ".".join(filter(None, [base, node.module or ""]))
            found |= {stem} if node.module else {f"{stem}.{name.name}" for name in node.names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_is_below_it(path):
    here = part(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "fasttrain":
            target = part(ROOT / "fasttrain" / f"{rest.replace('.', '/') or '__init__'}.py")
            is_file = (ROOT / "fasttrain" / target).exists() or (
                ROOT / "fasttrain" / f"{target}.py"
            ).exists()
            target = target if is_file else ""
            assert target == here or target in MAY_IMPORT[here], f"{here} imports {name}"
        elif top == "kernels":
            assert here == "kernels" or "kernels" in MAY_IMPORT[here]
        elif top in ONE_HOME:
            assert str(path.relative_to(ROOT)) in ONE_HOME[top], f"{path} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_over_200_lines_and_each_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert ast.get_docstring(ast.parse(text))


def test_the_check_itself_sees_a_wrong_arrow(tmp_path, monkeypatch):
    assert "fasttrain.trace" in imports(ROOT / "fasttrain" / "step.py")
    assert "commands" not in MAY_IMPORT["step"]
    (tmp_path / "fasttrain").mkdir()
    for name in ("step", "commands"):
        (tmp_path / "fasttrain" / f"{name}.py").write_text("from .commands import train\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    with pytest.raises(AssertionError, match=r"step imports fasttrain\.commands"):
        test_a_module_imports_only_what_is_below_it(tmp_path / "fasttrain" / "step.py")
