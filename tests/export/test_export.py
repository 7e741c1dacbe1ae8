"""What was trained is what is exported: each file gives the run's own answers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from exporting import PAGE, SIZES, commands, noise
from made_images import picture
from PIL import Image

import fasttrain
from fasttrain.cli import main as cli
from fasttrain.engine import build
from fasttrain.export import onnx_file, pt2_file
from fasttrain.run import folders
from fasttrain.storage.paths import path

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def classifier(run):
    return fasttrain.load(run, device="cpu")


@pytest.fixture(scope="module")
def runtimes(exported):
    return {
        "onnx": onnx_file.read(exported / "model.onnx"),
        "pt2": pt2_file.read(exported / "model.pt2"),
    }


def of_run(classifier, images):
    """The run's own answer to arrays of any size."""
    pixels = [classifier.preprocessing.pixels(Image.fromarray(image)) for image in images]
    return classifier.probabilities(np.stack(pixels))


@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_images_of_any_size_in_batches_of_any_size_get_the_runs_probabilities(
    name, runtimes, classifier
):
    for number, size in enumerate(SIZES):
        images = np.stack([noise(*size, seed=number + 3 * each) for each in range(1 + number % 3)])
        logits, found = runtimes[name](images)
        np.testing.assert_allclose(found, of_run(classifier, images), atol=1e-6, err_msg=str(size))
        np.testing.assert_allclose(torch.from_numpy(logits).softmax(1), found, atol=1e-6)


@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_every_test_image_gets_the_class_that_the_run_counted(name, runtimes, run, classifier):
    test = build.splits(classifier.recipe).test
    found = runtimes[name](np.asarray(test.images))[1]
    expected = classifier.probabilities(test.images)
    counted = json.loads((run / "class_accuracy.json").read_text())
    predicted = found.argmax(axis=1)
    differing = predicted != expected.argmax(axis=1)
    two = np.sort(expected[differing], axis=1)[:, -2:]
    assert (two[:, 1] - two[:, 0] < 1e-4).all()
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (test.labels, predicted), 1)
    assert np.abs(confusion - np.array(counted["confusion"])).sum() <= 2 * differing.sum()
    assert len(set(predicted.tolist())) > 3


def test_what_an_onnx_file_says_of_itself(exported, classifier):
    import onnx

    model = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 18)]
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("images", "tensor(uint8)")
    assert given.shape == ["batch", "height", "width", 3]
    made = [(each.name, each.type, each.shape) for each in session.get_outputs()]
    floats = "tensor(float)", ["batch", 10]
    assert made == [("logits", *floats), ("probabilities", *floats)]
    about = {key: json.loads(x) for key, x in session.get_modelmeta().custom_metadata_map.items()}
    assert tuple(about["classes"]) == classifier.classes
    assert about["preprocessing"] == classifier.preprocessing.as_dict()
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Resize", "If", "Loop"})


def test_what_a_pt2_file_says_of_itself(exported, classifier):
    extra = {pt2_file.ABOUT: ""}
    torch.export.load(exported / "model.pt2", extra_files=extra)
    about = json.loads(extra[pt2_file.ABOUT])
    assert tuple(about["classes"]) == classifier.classes
    assert about["preprocessing"]["fit"] == "pad"


def test_the_record_and_the_card_have_the_verifications_numbers(exported, run):
    record = json.loads((exported / "export.json").read_text())
    assert set(record["files"]) | {"export.json"} == {file.name for file in exported.iterdir()}
    checked = record["verification"]
    assert [(each["what"], each["count"]) for each in checked["images"]] == [
        ("held out", 256),
        *[("noise", 10)] * 3,
    ]
    assert checked["batches"] == [1, 2, 7]
    assert len({tuple(each["size"]) for each in checked["images"]}) == 3
    for numbers in checked["formats"].values():
        assert numbers["images"] == numbers["same_class"] == 286
        assert 0 <= numbers["max_difference_of_probabilities"] <= 1e-4
    card = (exported / "README.md").read_text()
    counted = json.loads((run / "class_accuracy.json").read_text())["classes"]
    right = sum(row["correct"] for row in counted)
    assert f"| accuracy | {100 * right / 300:.2f} % |" in card
    assert f"| cat | {100 * counted[3]['accuracy']:.2f} % | {100 * counted[3]['low']:.2f} %" in card
    assert "480 train, 300 test" in card
    assert "## Licence\n\nNot given here." in card
    assert json.loads((exported / "classes.json").read_text())[3] == "cat"


def test_no_file_names_a_path_of_this_machine(exported, world):
    here = {str(path(each).resolve()).encode() for each in (ROOT, world, Path.home(), sys.prefix)}
    here |= {b"site-packages", b"/fasttrain/", b".py"}
    for file in exported.iterdir():
        content = file.read_bytes()
        assert not [each for each in here if each in content], file.name


def test_overwriting_a_run_takes_its_export_along_also_one_that_was_killed(exported, run):
    assert folders.foreign_file(run) is None
    assert exported / "model.onnx" in folders.own_files(run)
    killed = run / ".export.01234567.tmp" / "model.onnx"
    killed.parent.mkdir()
    killed.write_bytes(b"half")
    try:
        assert folders.foreign_file(run) is None
        assert killed in folders.own_files(run)
    finally:
        killed.unlink()
        killed.parent.rmdir()


# Runs a script where nothing can be imported but Python's own modules, those named and theirs.
ALONE = """
import runpy, sys
packages, script, *words = sys.argv[1:]
allowed = sys.stdlib_module_names | {"numpy", "onnxruntime", "PIL", "google", "flatbuffers"}
class Only:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"no module {name}", name=name)
sys.path.append(packages)
sys.meta_path.insert(0, Only)
for name in ("torch", "fasttrain", "kernels", "onnx"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported")
sys.argv = [script, *words]
runpy.run_path(script, run_name="__main__")
assert not {"torch", "fasttrain"} & set(sys.modules)
"""


def test_the_pages_ten_lines_classify_a_photograph_with_neither_torch_nor_fasttrain(
    exported, world, classifier
):
    (script,) = re.findall(r'^```python title="classify.py"\n(.*?)^```', PAGE, re.M | re.S)
    assert len([line for line in script.splitlines() if line]) <= 10
    (world / "classify.py").write_text(script)
    photograph = picture(5, height=300, width=500)
    turned = Image.Exif()
    turned[0x0112] = 6
    photograph.save(world / "photo.png", exif=turned)
    packages = str(Path(np.__file__).parents[1])
    command = [sys.executable, "-I", "-S", "-c", ALONE, packages, "classify.py", "photo.png"]
    done = subprocess.run(command, cwd=world, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    upright = np.rot90(np.asarray(photograph), k=-1)
    expected = of_run(classifier, [np.ascontiguousarray(upright)])
    first = expected[0].argsort()[::-1][:3]
    rows = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert [name for _, name in rows] == [classifier.classes[number] for number in first]
    np.testing.assert_allclose([float(p) for p, _ in rows], expected[0, first], atol=1e-4)


def test_the_pages_other_commands_export_the_weights_and_take_prepared_images(
    exported, world, classifier, monkeypatch
):
    monkeypatch.chdir(world)
    for words in commands()[1:]:
        assert cli.main(words) == 0
    weights = {file.name for file in (world / "weights").iterdir()}
    described = {"config.json", "classes.json", "README.md", "export.json"}
    assert weights == {"model.safetensors", *described}
    small = torch.export.load(world / "small" / "model.pt2").module()
    images = np.stack([noise(32, 32, seed=seed) for seed in range(7)])
    found = small(torch.from_numpy(images))[1].detach().numpy()
    np.testing.assert_allclose(found, classifier.probabilities(images), atol=1e-6)
    with pytest.raises(Exception, match="32"):
        small(torch.zeros(1, 40, 32, 3, dtype=torch.uint8))
