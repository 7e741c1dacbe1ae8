"""Rooms import only what is below them, and no module grows a second responsibility."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Floor by floor, from the ground: a room imports only rooms that stand above it in this table.
ROOMS = {
    "errors": "",
    "kernels": "",
    "": "",  # fasttrain/__init__.py: the version
    "recipe": "errors",
    "storage": "errors",
    "machine": "errors kernels storage",
    "parallel": "errors",
    "optim": "errors kernels",
    "data": "errors recipe storage",
    "report": "errors recipe",
    "profile": "storage",
    "track": "errors recipe storage",
    "models": "errors optim recipe storage",
    "loaders": "data errors kernels machine parallel recipe",
    "engine": "data errors loaders machine models optim parallel profile recipe",
    "console": "engine",
    "predict": "data engine errors loaders machine models recipe storage",
    "explain": "data engine errors loaders machine models predict recipe storage",
    "export": "data engine errors explain models predict recipe report storage",
    "serve": "data errors explain predict report",
    "run": "console data engine errors explain machine models optim parallel predict profile recipe"
    " report storage track",
    "doctor": "console data engine errors loaders machine models optim parallel profile recipe run",
    "cli": "console data doctor engine errors explain export machine parallel predict recipe"
    " report run serve storage",
    "__main__": "cli console parallel",
}
ONE_HOME = {
    "nvidia": {"fasttrain/loaders/dali.py", "fasttrain/loaders/pipeline.py"},
    "apex": {"fasttrain/optim/sgd.py"},
    "triton": {f"kernels/{name}.py" for name in ("__init__", "augment", "sgd", "warp")},
    "rich": {
        f"fasttrain/{name}.py" for name in ("cli/call", "console/console", "console/progress")
    },
    "timm": {"fasttrain/models/own.py"},
    "safetensors": {"fasttrain/export/safetensors_file.py", "fasttrain/models/weights.py"},
    "tomli": {"fasttrain/cli/config.py"},
    "onnx": {"fasttrain/export/onnx_file.py"},
    "onnxruntime": {"fasttrain/export/onnx_file.py"},
    "tensorboard": {"fasttrain/run/tensorboard.py"},
    "PIL": {"fasttrain/data/decode.py", "fasttrain/export/verify.py", "fasttrain/report/tiles.py"}
    | {
        f"fasttrain/data/{name}.py"
        for name in ("arrays", "content", "depths", "files", "found", "making", "packed")
    }
    | {f"fasttrain/data/{name}.py" for name in ("pictures", "preprocessing", "scan")},
    "wandb": {"fasttrain/track/with_wandb.py"},
    "mlflow": {"fasttrain/track/with_mlflow.py"},
    "pyarrow": {"fasttrain/data/packed.py"},
}
SOURCES = sorted([*ROOT.glob("fasttrain/**/*.py"), *ROOT.glob("kernels/*.py")])


def room(module: str) -> str:
    """fasttrain.engine.step -> engine, fasttrain.errors -> errors, kernels.sgd -> kernels."""
    names = module.split(".")
    inside = names[1:2] if names[0] == "fasttrain" else names[:1]
    return inside[0] if inside and inside[0] in ROOMS else ""


def imports(path: Path, root: Path = ROOT) -> set[str]:
    """Absolute names of every module that the file imports, wherever in it."""
    package = path.relative_to(root).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            stem = ".".join(filter(None, [base, node.module or ""]))
            found |= {f"{stem}.{name.name}" for name in node.names}
    return found


def check(path: Path, root: Path = ROOT) -> None:
    """Fail if the file imports a room that is not below its own, or a package of another's."""
    name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    here = room(name)
    for imported in imports(path, root):
        top = imported.partition(".")[0]
        if top in ("fasttrain", "kernels"):
            target = room(imported)
            allowed = ["", here, *ROOMS[here].split()]
            assert target in allowed, f"{here} imports {imported}"
        elif top in ONE_HOME:
            assert str(path.relative_to(root)) in ONE_HOME[top], f"{path} imports {imported}"


def test_a_room_imports_only_rooms_below_it():
    floors = list(ROOMS)
    for name, below in ROOMS.items():
        assert all(floors.index(each) < floors.index(name) for each in below.split()), name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_is_below_its_room(path):
    check(path)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_over_200_lines_and_each_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert ast.get_docstring(ast.parse(text))


def test_every_module_stands_in_a_room():
    loose = {path.stem for path in ROOT.glob("fasttrain/*.py")}
    assert loose == {"__init__", "__main__", "errors"}
    assert {path.name for path in ROOT.glob("fasttrain/*/") if path.name[0] != "_"} <= set(ROOMS)


@pytest.mark.parametrize(
    "line",
    ["from ..run import train", "from ..run.train import train", "import fasttrain.cli.main"],
)
def test_an_import_upward_is_seen(line, tmp_path):
    path = tmp_path / "fasttrain" / "engine" / "step.py"
    path.parent.mkdir(parents=True)
    path.write_text(f"from ..profile.trace import span\n{line}\n")
    with pytest.raises(AssertionError, match="engine imports fasttrain"):
        check(path, tmp_path)
    path.write_text("from ..profile.trace import span\n")
    check(path, tmp_path)
