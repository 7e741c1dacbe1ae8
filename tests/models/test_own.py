"""A user's own network and timm's are made, or refused with one line that says what to do."""

from __future__ import annotations

import hashlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from fasttrain.cli import main as cli
from fasttrain.errors import EnvironmentProblem, UsageError
from fasttrain.explain.gradcam import GradCAM
from fasttrain.models import build, own
from fasttrain.models.stages import stages
from fasttrain.recipe.recipe import Recipe

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stages = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        return self.head(self.pool(self.stages(x)).flatten(1))

def make(num_classes):
    return Net(num_classes)

def positional(classes):
    return Net(classes)

def nothing(num_classes):
    pass

def ten(num_classes):
    return Net(10)

def lazy(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

def small(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 64), nn.Flatten(), nn.Linear(4, num_classes))

def still(num_classes):
    pad = nn.ConstantPad1d((0, num_classes - 3), 0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), pad)

def leave(num_classes):
    raise SystemExit(3)

number = 7
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with a user's files; what was imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    (tmp_path / "my_nets.py").write_text(NET)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and name.startswith(("my_", "pack_")):
            del sys.modules[name]


def network(model: str, **options) -> nn.Module:
    return build.network(Recipe(model=model), **options)


@pytest.mark.parametrize(("side", "classes"), [(32, 10), (50, 3)])
@pytest.mark.parametrize("function", ["make", "lazy"])
def test_a_function_in_the_current_folder_makes_the_network(folder, function, side, classes):
    made = network(f"my_nets:{function}", side=side, classes=classes)
    assert made(torch.zeros(4, 3, side, side)).shape == (4, classes)
    assert made.training


def test_making_it_leaves_torchs_random_state_as_the_function_left_it(folder):
    torch.manual_seed(3)
    sys.path.insert(0, str(folder))
    import my_nets

    alone = my_nets.make(num_classes=10)
    after = torch.rand(1)
    torch.manual_seed(3)
    made = network("my_nets:make")
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(made.head.weight, alone.head.weight)


def test_a_module_in_a_package_is_found(folder):
    (folder / "pack_a").mkdir()
    (folder / "pack_a" / "__init__.py").write_text("")
    (folder / "pack_a" / "nets.py").write_text(NET)
    assert network("pack_a.nets:make", classes=4).head.out_features == 4


FAULTS = {
    "my_missing:make": ("there is no module my_missing in the current folder", "without its .py"),
    "my_nets:mak": ("my_nets has no function mak", "Did you mean make?"),
    "my_nets:zzz": ("my_nets has no function zzz", "Define it there"),
    "my_nets:number": ("number is a int and cannot be called", "returns a torch.nn.Module"),
    "my_nets:positional": ("TypeError: ", "num_classes="),
    "my_nets:nothing": ("it returned a NoneType", "Return a torch.nn.Module"),
    "my_nets:ten": ("makes (2, 10) and not logits (2, 5)", "num_classes outputs"),
    "my_nets:small": ("on images (2, 3, 32, 32) it raised RuntimeError", "--side"),
    "my_nets:still": ("it has no weights to train", "parameters"),
    "my_nets:leave": ("SystemExit: 3 (my_nets.py, line ", "num_classes="),
    "my_broken:make": ("SyntaxError: ", "Mend the file"),
    "my_raising:make": ("ValueError: too odd (my_raising.py, line 2)", "Mend the file"),
    "my_needy:make": ("No module named 'my_other_package'", "Install my_other_package"),
}


@pytest.mark.parametrize("model", FAULTS)
def test_what_goes_wrong_is_one_line_with_its_place(folder, model):
    (folder / "my_broken.py").write_text("def make(:\n")
    (folder / "my_raising.py").write_text("\nraise ValueError('too odd')\n")
    (folder / "my_needy.py").write_text("import my_other_package\n")
    with pytest.raises(UsageError) as caught:
        network(model, classes=5)
    said = str(caught.value)
    assert said.startswith(f"--model ({model}): ")
    assert "\n" not in said
    for words in FAULTS[model]:
        assert words in said


def test_the_command_line_refuses_a_fault_with_2_and_trains_what_is_right(folder, capsys):
    tiny = "--dataset synthetic --train-limit 16 --test-limit 8 --batch-size 8 --lr 0.1 --epochs 1"
    flags = [*tiny.split(), "--device", "cpu", "--loader", "resident", "--out", "run"]
    assert cli.main([*flags, "--model", "my_nets:mak"]) == 2
    assert "Did you mean make?" in capsys.readouterr().err.splitlines()[-1]
    assert not (folder / "run" / "recipe.json").exists()
    assert cli.main([*flags, "--model", "my_nets:make"]) == 0
    assert (folder / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet19", "Did you mean resnet18?"),
        ("ResNet50", "Did you mean resnet50?"),
        ("wrn-28-1", "Did you mean wrn-28-10?"),
        ("squeezenet", "See --help."),
        ("my_nets.make", "look like MODULE:FUNCTION or timm:NAME. See --help."),
        ("my nets:make", "See --help."),
        (":make", "See --help."),
        ("nets.py:", "See --help."),
        ("timm:", "See --help."),
        ("", "--model (): must be a non-empty line"),
    ],
)
def test_a_name_that_is_none_is_refused_with_the_names_there_are(capsys, name, hint):
    assert cli.main(["--model", name]) == 2
    said = capsys.readouterr().err
    assert hint in said
    assert said.startswith("fasttrain: error: --model (")
    assert not name or "must be one of resnet18, resnet34, resnet50, wrn-16-8" in said


@pytest.mark.parametrize("name", ["nets:make", "pack.nets:make_it2", "timm:vit_tiny.augreg_in21k"])
def test_names_of_modules_and_of_timm_are_taken(name):
    assert Recipe(model=name).model == name


def test_the_digest_is_of_the_source_file_that_was_imported(folder):
    before = own.source_digest("my_nets:make")
    assert before == hashlib.sha256(NET.encode()).hexdigest()
    (folder / "my_nets.py").write_text(NET + "\n")
    assert own.source_digest("my_nets:ten") == before, "this process has the old code"
    del sys.modules["my_nets"]
    assert own.source_digest("my_nets:make") not in (None, before)
    for name in ("resnet18", "timm:resnet18", "math:sqrt", "sys:exit"):
        assert own.source_digest(name) is None


# --- Grad-CAM's layer -----------------------------------------------------------------------------


def test_the_last_module_with_a_map_is_found_though_stages_is_a_module(folder):
    made = network("my_nets:make", side=40)
    assert stages(made, side=40) == ("stages",)
    with GradCAM(made, *stages(made, side=40)) as cam:
        assert cam(torch.randn(2, 3, 40, 40), [1, 2]).shape == (2, 40, 40)


def test_finding_it_leaves_no_hook_flag_number_or_statistic_behind():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())
    model.append(nn.Linear(4 * 6 * 6, 2)).train()
    model[1].eval()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    state = torch.get_rng_state()
    assert stages(model, side=8) == ("2",)
    assert [m.training for m in model] == [True, False, True, True, True]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_maps_of_one_pixel_are_taken_only_where_there_is_no_larger_one():
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 2, 1), nn.Flatten())
    assert stages(pooled, side=8) == ("1",)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(UsageError, match="puts out one map"):
        stages(flat, side=8)


# --- timm -----------------------------------------------------------------------------------------


def test_without_timm_the_line_says_what_to_install_and_the_exit_is_3(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(EnvironmentProblem, match=r"--model \(timm:resnet18\): timm cannot be"):
        network("timm:resnet18")
    monkeypatch.chdir(tmp_path)
    flags = "--dataset synthetic --train-limit 16 --test-limit 8 --batch-size 8 --device cpu"
    assert cli.main([*flags.split(), "--lr", "0.1", "--model", "timm:resnet18"]) == 3
    assert "Install timm and the torchvision" in capsys.readouterr().err


def fake_timm(monkeypatch, **options) -> list[dict]:
    calls = []

    def create_model(name, *, pretrained, num_classes, **more):
        calls.append({"name": name, "pretrained": pretrained, **more})
        if more and options.get("conv"):
            raise TypeError("unexpected keyword argument 'img_size'")
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

    made = ModuleType("timm")
    made.list_models = lambda: ["resnet18", "vit_tiny_patch16_224"]
    made.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", made)
    return calls


@pytest.mark.parametrize("conv", [False, True])
def test_timms_networks_get_the_classes_and_where_they_take_it_the_side(monkeypatch, conv):
    calls = fake_timm(monkeypatch, conv=conv)
    made = network("timm:vit_tiny_patch16_224.augreg", classes=6, side=64)
    assert made(torch.zeros(1, 3, 64, 64)).shape == (1, 6)
    assert not any(call["pretrained"] for call in calls)
    assert calls[0]["img_size"] == 64
    assert len(calls) == 1 + conv


def test_a_name_that_timm_does_not_have_is_refused_with_the_nearest(monkeypatch):
    fake_timm(monkeypatch)
    with pytest.raises(UsageError, match=r"no network of that name\. Did you mean timm:resnet18\?"):
        network("timm:resnet19")


def test_a_broken_torchvision_is_an_environment_problem(monkeypatch):
    broken = SimpleNamespace(find_spec=lambda name, *rest: _raise(name))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [broken, *sys.meta_path])
    with pytest.raises(EnvironmentProblem, match="operator torchvision::nms does not exist"):
        network("timm:resnet18")


def _raise(name: str) -> None:
    if name == "timm":
        raise RuntimeError("operator torchvision::nms does not exist")
