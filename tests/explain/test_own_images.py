"""What is said of a run on own images has their names, on the page, in tables and in pictures."""

import json
import shutil

import numpy as np
import pytest
import torch
from fixture_run import NAMES as CIFAR10
from made_images import folder

from fasttrain.cli import main as cli
from fasttrain.errors import DataError
from fasttrain.explain import explain
from fasttrain.explain.subject import open_run
from fasttrain.storage import checkpoint

NAMES = ["ant & bee", "große Kuh " + "und noch eine " * 8, "犬 $x$"]
pytestmark = pytest.mark.filterwarnings("error::UserWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run directory, data set): classes of unequal sizes, val and test, the real report."""
    root = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patches:
        patches.setenv("XDG_CACHE_HOME", str(root / "cache"))
        for place, name in enumerate(NAMES):
            for start, split in enumerate(("train", "val", "test")):
                count = (24, 9, 9)[start] // (place + 1)
                options = {"count": count, "start": 100 * start + 1000 * place}
                folder(root / "d" / split, [name], height=40, width=50, **options)
        words = "--recipe sprint --widths 8,8,8 --side 32 --epochs 2 --batch-size 8 --device cpu"
        words = [*words.split(), "--dataset", str(root / "d"), "--out", str(root / "run")]
        assert cli.main(words) == 0
        yield root / "run", root / "d"


def read(run, name):
    return json.loads((run / name).read_text())


def test_the_page_and_the_tables_have_the_classes_names(trained):
    run, _ = trained
    page = (run / "report.html").read_text(encoding="utf-8")
    for name in ("ant &amp; bee", NAMES[1], "犬 $x$"):
        assert name in page
    assert not any(f">{name}<" in page for name in CIFAR10)
    rows = read(run, "class_accuracy.json")["classes"]
    assert [row["name"] for row in rows] == NAMES
    assert [row["count"] for row in rows] == [9, 4, 3]
    assert {image["true"] for image in read(run, "misclassified.json")["images"]} <= set(NAMES)


def test_a_mistake_is_named_by_its_file(trained):
    run, data = trained
    page = (run / "report.html").read_text(encoding="utf-8")
    images = read(run, "misclassified.json")["images"]
    assert images
    for image in images:
        assert (data / image["file"]).parts[-3:-1] == ("test", image["true"])
        assert image["file"].rpartition("/")[2] in page
    assert [data / image["file"] for image in images] == [
        sorted(data.glob("test/*/*"))[image["index"]] for image in images
    ]
    assert "the index in the test set, and the file" in page


def test_val_chose_and_test_came_once_in_summary_and_report(trained):
    run, _ = trained
    summary, page = read(run, "summary.json"), (run / "report.html").read_text(encoding="utf-8")
    confusion = np.array(read(run, "class_accuracy.json")["confusion"])
    assert summary["test_accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
    recalls = np.diag(confusion) / confusion.sum(axis=1)
    assert summary["balanced_accuracy"] == pytest.approx(recalls.mean())
    assert list(summary["recall"].values()) == pytest.approx(recalls.tolist())
    assert 0 <= summary["macro_f1"] <= 1
    assert (summary["chosen_by"], summary["classes_of"]) == ("val", "test")
    assert read(run, "misclassified.json")["split"] == "test"
    for said in (
        "of 2, which val chose",
        "chosen by the accuracy on the val images",
        "evaluated once, at the end",
        "Best val accuracy",
        "Balanced accuracy",
        "Macro F1",
        "best epoch on the val images",
    ):
        assert said in page, said


def test_the_run_can_be_explained_reported_and_compared_again(trained, tmp_path, capsys):
    run, _ = trained
    assert cli.main(["explain", str(run), "--device", "cpu"]) == 0
    assert cli.main(["explain", str(run), "--device", "cpu", "--image", "3"]) == 0
    assert (run / "figures" / "image-3.png").exists()
    assert cli.main(["report", str(run)]) == 0
    capsys.readouterr()
    page = tmp_path / "c.html"
    copy = shutil.copytree(run, tmp_path / "copy")
    assert cli.main(["compare", str(run), str(copy), "--out", str(page)]) == 0
    said = capsys.readouterr().out
    assert "best val accuracy" in said
    assert "test accuracy of that epoch" in said


def test_names_and_normalisation_are_those_of_the_weights(trained):
    run, _ = trained
    subject = open_run(run, device="cpu")
    kept = checkpoint.load(run / "checkpoints" / "best.pt")["data"]
    assert list(subject.data.classes) == kept["classes"] == NAMES
    assert list(subject.data.mean) == kept["mean"]
    images = explain.prepare(subject, np.array([0]))[0]
    mean, std = (torch.tensor(kept[name]).view(3, 1, 1) for name in ("mean", "std"))
    pixels = torch.from_numpy(np.array(subject.analysed.images[0])).permute(2, 0, 1) / 255
    assert torch.allclose(images, (pixels - mean) / std, atol=1e-5)


def test_other_images_are_not_explained(trained):
    run, data = trained
    file = next((data / "test" / NAMES[0]).iterdir())
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(DataError, match="not the images that the run was trained on"):
        open_run(run, device="cpu")
    file.write_bytes(content)
    open_run(run, device="cpu")
