"""The tables of the documents match benchmarks/results, and the peers train."""

import importlib
import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import (
    bench_checkpoint,
    bench_epoch,
    bench_loaders,
    bench_lr_finder,
    bench_metrics,
    bench_sgd,
    bench_step,
    conftest,
    finetune,
    headline,
    modern,
    own_images,
    preparing,
    scaling,
    sprints,
    switches,
    table,
)
from benchmarks.gpu import tables as gpu_tables
from benchmarks.peers import amp_loop
from fasttrain.data import synthetic
from fasttrain.engine import metrics
from fasttrain.engine.build import build, splits
from fasttrain.recipe.named import RECIPES
from fasttrain.recipe.recipe import make
from tests.conftest import tiny_model, tiny_step

ENVIRONMENT = {
    "date": "2026-11-23T22:30:50+00:00",
    "torch": "2.13.0",
    "fasttrain": {"commit": "c7f90145e310", "modified": False},
    "cpu": {"name": "AMD EPYC", "physical_cores": 2, "capability": "AVX512", "bf16": True},
    "gpu": None,
}
RAW = {
    "environment": ENVIRONMENT,
    "benchmarks": [
        {
            "name": "test_an_epoch[dali]",
            "group": "loaders",
            "params": {"provider": "dali"},
            "stats": {"rounds": 10, "median": 0.5, "iqr": 0.01},
            "extra_info": {"images_per_second": 40960.4},
        },
        {
            "name": "test_a_training_step[32]",
            "group": "step",
            "params": {"size": 32},
            "stats": {"rounds": 5, "median": 9.0, "iqr": 0.1},
            "extra_info": {
                "providers": {
                    "source": {"n": 5, "images_per_second": 30.0, "times_source": 1.0},
                    "ours": {
                        "n": 5,
                        "images_per_second": 66.0,
                        "times_source": 2.2,
                        "first_step_seconds": 12.34,
                    },
                }
            },
        },
        {
            "name": "test_saving",
            "group": "checkpoint",
            "params": None,
            "stats": {"rounds": 10, "median": 0.0421, "iqr": 0.001},
            "extra_info": {"bytes": 12},
        },
    ],
}


WRITERS = {
    (table.BEGIN, table.END): lambda: table.table(table.results(), table.results("gpu")),
    (gpu_tables.BEGIN, gpu_tables.END): lambda: gpu_tables.markdown(table.results("gpu")),
    (headline.BEGIN, headline.END): headline.table,
    (sprints.BEGIN, sprints.END): lambda: sprints.table(table.results("sprint")),
    (switches.BEGIN, switches.END): lambda: switches.table(table.results("switches")),
    (preparing.BEGIN, preparing.END): lambda: preparing.table(table.results("prepare")),
    (own_images.BEGIN, own_images.END): lambda: own_images.table(table.results("own-images")),
    (scaling.BEGIN, scaling.END): scaling.table,
    (finetune.BEGIN, finetune.END): lambda: finetune.table(table.results("finetune")),
    (modern.BEGIN, modern.END): lambda: modern.table(table.results("modern")),
}


@pytest.mark.parametrize("lines", WRITERS, ids=lambda lines: lines[0].split()[-2])
def test_a_documents_table_is_made_from_the_kept_results(lines):
    begin, end = lines
    shown = table.shown(begin=begin, end=end)
    assert shown
    for path, inside in shown.items():
        assert inside == WRITERS[lines]().strip(), path


def test_every_table_that_a_document_says_is_made_has_its_writer():
    begins = {begin for begin, _ in WRITERS}
    for path in table.documents():
        for found in re.findall(r"<!-- table: .*? -->", path.read_text(encoding="utf-8")):
            assert found in begins, path


@pytest.fixture
def documents(tmp_path, monkeypatch):
    """A README and two pages, one of them without a table."""
    monkeypatch.setattr(table, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    text = f"# Title\n\n{table.BEGIN}\n{{}}{table.END}\n\nMore.\n"
    (tmp_path / "README.md").write_text(text.format(""))
    (tmp_path / "docs" / "page.md").write_text(text.format("| an old | table |\n"))
    (tmp_path / "docs" / "other.md").write_text("# Other\n")
    return tmp_path


def test_a_table_is_written_into_every_document_that_has_its_lines(documents):
    for made in ("| new | one |", "| newer | one |"):
        table.put(made, begin=table.BEGIN, end=table.END)
        for name in ("README.md", "docs/page.md"):
            text = (documents / name).read_text()
            assert text == f"# Title\n\n{table.BEGIN}\n{made}\n{table.END}\n\nMore.\n"
        assert (documents / "docs" / "other.md").read_text() == "# Other\n"
        assert set(table.shown(begin=table.BEGIN, end=table.END).values()) == {made}


def test_a_table_without_its_last_line_is_an_error_and_nothing_is_lost(documents):
    page = documents / "docs" / "page.md"
    page.write_text(f"{table.BEGIN}\nthe rest of the page\n")
    with pytest.raises(ValueError, match="has no"):
        table.put("made", begin=table.BEGIN, end=table.END)
    assert "the rest of the page" in page.read_text()


def test_the_headline_has_ten_rows_at_most_and_one_for_what_no_gpu_measured(monkeypatch):
    lines = headline.table().splitlines()
    assert 5 <= len(lines) - 2 <= 10
    assert "*not measured*" not in "".join(lines)
    monkeypatch.setattr(
        headline, "results", lambda *kind: [] if kind == ("gpu",) else table.results(*kind)
    )
    assert "*not measured*" in headline.table().splitlines()[-1]


def test_the_headline_takes_the_fastest_series_that_reached_its_target_each_time():
    runs = [{"best_test_accuracy": 0.885}, {"best_test_accuracy": 0.887}]
    made = {"environment": ENVIRONMENT, "target": 0.88, "count": 2, "runs": runs}
    made["recipe"] = {"bias_rate": RECIPES["sprint"]["bias_rate"]}
    slow = {**made, "reached": 2, "seconds_mean": 100.0}
    fast = {**made, "reached": 2, "seconds_mean": 80.4}
    missed = {**made, "reached": 1, "seconds_mean": 60.0}
    (row,) = headline.sprints([slow, missed, fast])
    assert row == (
        "`--recipe sprint` to 88 % of CIFAR-10's test images",
        "80 s, 88.60 % (means of 2 seeds)",
        "2 cores of AMD EPYC with bf16",
    )
    assert headline.sprints([missed]) == []
    ((_, measured, _),) = headline.sprints([{**missed, "count": 3, "reached": 2}])
    assert measured == "60 s, 88.60 % (2 of 3 seeds reached it)"
    assert headline.sprints([{**fast, "recipe": {"bias_rate": 0.22}}]) == []


def test_the_headline_prefers_what_a_gpu_measured():
    fast = {
        "group": "training step, batch 128, cpu",
        "times_source": 9.0,
        "n": 5,
        "provider": "ours",
    }
    slow = {
        "group": "training step, batch 128, cuda",
        "times_source": 2.0,
        "n": 7,
        "provider": "ours",
    }
    bench = [
        {"environment": ENVIRONMENT, "rows": [{**fast, "images_per_second": 90.0}]},
        {
            "environment": {**ENVIRONMENT, "gpu": {"name": "some GPU"}},
            "rows": [{**slow, "images_per_second": 20000.0}],
        },
    ]
    said = "20,000 images/s, 2.00 times the plain loop (n = 7)"
    assert headline.step(bench)[1:] == (said, "some GPU")
    assert headline.step(bench[:1])[2] == "2 cores of AMD EPYC with bf16"


def test_a_series_becomes_a_row_that_lists_every_run():
    runs = [
        {
            "best_test_accuracy": 0.8812,
            "final_test_accuracy_with_flips": 0.89,
            "seconds_to_target": 70.0,
            "fp32_operations_to_target": 28e12,
        },
        {"best_test_accuracy": 0.8790, "final_test_accuracy_with_flips": 0.88},
    ]
    series = {"target": 0.88, "runs": runs, "command": "fasttrain", "environment": ENVIRONMENT}
    series["recipe"] = {"widths": "36,72,144", "epochs": 4}
    made = sprints.table([series])
    assert "| 88.00% | 36-72-144, 4 | 1 of 2 | 70 (70) | 88.12%, 87.90% | 88.50% | 28 TFL" in made
    never = sprints.table([{**series, "runs": runs[1:]}])
    assert "| 88.00% | 36-72-144, 4 | 0 of 1 | | 87.90% | 88.00% |  |" in never


def test_providers_that_took_turns_become_rows_of_their_own():
    rows = table.keep(RAW)["rows"]
    assert [row["provider"] for row in rows] == ["dali", "source", "ours", "saving"]
    assert rows[0]["median_seconds"] == 0.5
    made = table.table([table.keep(RAW)])
    assert "| step | ours | 5 | 66 images/s | 2.20 source | 12.3 s |" in made
    assert "| loaders | dali | 10 | 40,960 images/s |  |  |" in made
    assert "| checkpoint | saving | 10 | 42.1 ms |  |  |" in made
    assert "AMD EPYC, 2 cores, AVX512 with bf16; torch 2.13.0, commit c7f9014, 2026-11-23" in made
    one = {**ENVIRONMENT, "cpu": {**ENVIRONMENT["cpu"], "torch_threads": 1}}
    assert "AMD EPYC, 1 of 2 cores, AVX512" in table.machine(one)
    changed = {**ENVIRONMENT, "fasttrain": {"commit": "c7f90145e310", "modified": True}}
    assert "commit c7f9014 with changes, 2026" in table.machine(changed)


def test_a_rate_in_bytes_is_shown_where_there_is_one():
    sgd = {"gigabytes_per_second": 12.345, "median_seconds": 0.001}
    assert table.value(sgd) == "12.35 GB/s"
    assert table.value({**sgd, "images_per_second": 5000.0}) == "5,000 images/s, 12.35 GB/s"
    assert table.value({"median_seconds": 3.21}) == "3.21 s"


def test_what_needs_a_gpu_is_shown_as_not_measured_until_a_gpu_has_measured_it():
    kept = table.keep(RAW)
    gpu = {**kept, "environment": {**ENVIRONMENT, "gpu": {"name": "some GPU"}}}
    row = kept["rows"][0]
    gpu["rows"] = [{**row, "group": group.replace("and", "or")} for group, _ in table.ON_A_GPU]
    assert table.table([kept]).count("*not measured*") == len(table.ON_A_GPU)
    assert "`make bench NAME=mygpu`" in table.table([kept])
    assert "not measured" not in table.table([kept, gpu])
    assert "not measured" not in table.table([kept], [gpu])
    assert table.table([kept], [{**gpu, "rows": gpu["rows"][1:]}]).count("*not measured*") == 1


def test_every_row_that_a_gpu_would_fill_is_of_a_benchmark_that_there_is():
    groups = [text for path in table.ROOT.glob("benchmarks/bench_*.py") for text in _groups(path)]
    for row, _ in table.ON_A_GPU:
        assert any(row.startswith(group) for group in groups), row


def _groups(path):
    """What the names of a file's groups begin with: f"range test of {STEPS}..." -> range test"""
    lines = path.read_text(encoding="utf-8").splitlines()
    named = [line.split('"')[1] for line in lines if "benchmark.group =" in line]
    return [name.split("{")[0].removesuffix(" of ").rstrip(", ") for name in named]


def test_rates_of_providers_that_took_turns_are_medians_and_ratios_to_the_peer():
    found = conftest.compared({"ours": [1.0, 2.0, 9.0], "slow": [20.0] * 3}, images=10, peer="slow")
    assert found["ours"]["images_per_second"] == 5
    assert found["ours"]["times_slow"] == 10
    assert found["slow"]["times_slow"] == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_plain_amp_loop_learns(monkeypatch, dtype):
    monkeypatch.setattr(amp_loop, "ResNet18", tiny_model)
    cpu = torch.device("cpu")
    model, optimizer = amp_loop.network(cpu)
    batches = amp_loop.loader(synthetic.load(256, 10)[0], cpu, batch_size=32)
    assert len(list(batches)) == 8
    assert next(iter(batches))[0].is_contiguous(memory_format=torch.channels_last)
    losses = [amp_loop.epoch(model, optimizer, batches, dtype=dtype)[0] for _ in range(6)]
    assert losses[-1] < losses[0]


def test_kept_results_carry_their_hardware_and_their_n():
    for path in table.RESULTS.glob("bench-*.json"):
        kept = json.loads(path.read_text(encoding="utf-8"))
        assert kept["environment"]["cpu"]["name"]
        assert all(row["n"] >= 3 for row in kept["rows"])


def test_a_ring_over_more_gpus_takes_longer_and_over_one_nothing():
    assert scaling.all_reduce(1) == 0
    assert scaling.all_reduce(8) < scaling.all_reduce(64) < scaling.all_reduce(512)


@pytest.fixture(scope="module")
def before():
    return _learned(switches.SWITCHES[switches.AS_IT_IS])


@pytest.mark.parametrize("name", [name for name in switches.SWITCHES if name != switches.AS_IT_IS])
def test_a_switch_changes_what_is_learned_and_leaves_nothing_behind(name, before):
    changed = _learned(switches.SWITCHES[name])
    assert changed.isfinite().all()
    assert not torch.equal(changed, before)
    assert torch.equal(_learned(switches.SWITCHES[switches.AS_IT_IS]), before)


def test_the_sprint_as_it_is_is_the_88_percent_level():
    made = switches.recipe(switches.SWITCHES[switches.AS_IT_IS])
    level = make({"recipe": "sprint", "target_accuracy": 0.88})
    assert replace(made, target_accuracy=0.88) == level


def _learned(switch):
    """Logits of the training images after two epochs of six steps."""
    also = {"dataset": "synthetic", "train_limit": 96, "test_limit": 32, "batch_size": 16}
    also |= {"widths": "4,8,8", "loader": "resident", "amp": "off", "device": "cpu"}
    with switch.patch():
        recipe = switches.recipe(switch, **also)
        made = build(recipe, splits(recipe))
        for epoch in (1, 2):
            made.train.seek(epoch)
            for images, labels in made.train:
                made.step(images, labels)
        made.step.model.eval()
        with torch.no_grad():
            return torch.cat([made.step.predict(images) for images, _ in made.test])


def test_switches_become_rows_next_to_the_sprint_as_it_is():
    rows = {
        "relu": {"accuracies": [0.87, 0.88], "seconds": [60.0, 60.0]},
        "as-it-is": {"accuracies": [0.88, 0.89], "seconds": [80.0, 80.0]},
    }
    made = switches.table([{"command": "here", "environment": ENVIRONMENT, "rows": rows}])
    first, second = made.splitlines()[4:6]
    assert first.startswith("| as it is | 88.00%, 89.00% | 88.50% | (deviation 0.71) | 1.00 |")
    assert second == "| ReLU for GELU | 87.00%, 88.00% | 87.50% | -1.00 | 0.75 |"


def test_the_parts_of_the_modern_recipe_are_judged_one_by_one():
    """On a ResNet18 of a sixteenth of the work, next to the default recipe."""
    whole = modern.recipe(modern.WHOLE)
    assert sum(p.numel() for p in modern.narrow(10).parameters()) == 701_466
    changed = {
        name: {key for key, value in modern.recipe(name).as_dict().items() if value != of[key]}
        for name in modern.PARTS
        for of in [whole.as_dict()]
    }
    for name in set(modern.PARTS) - {modern.MISSION}:
        assert changed[name] == set(modern.PARTS[name][1])
    fields = set(RECIPES["modern"])
    assert changed[modern.MISSION] == {"recipe", *fields}
    assert fields == set.union(*(set(fields) for _, fields in modern.PARTS.values())) - {"ema"}


def test_the_parts_become_rows_below_the_whole():
    rows = {"mission": [0.5, 0.6], "flips": [0.88, 0.9], "modern": [0.8, 0.82]}
    result = {"command": "here", "environment": ENVIRONMENT, "rows": rows}
    first, second, third = modern.table([result]).splitlines()[4:7]
    assert first == "| `--recipe modern` | 80.00%, 82.00% | 81.00% ± 1.41% |  |"
    assert second == "| with `--no-alternate` | 88.00%, 90.00% | 89.00% ± 1.41% | +8.00 |"
    assert third.startswith("| the default recipe | 50.00%, 60.00% |")


class Once:
    """pytest-benchmark's fixture under --benchmark-disable: all runs once, without statistics."""

    stats = None

    def __init__(self):
        self.extra_info = {}

    def pedantic(self, target, args=(), kwargs=None, **rounds):
        return target(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("measure", "arguments"),
    [
        (bench_checkpoint.test_a_save, ["loop"]),
        (bench_checkpoint.test_a_save, ["save"]),
        (bench_lr_finder.test_a_range_test, ["off"]),
        (bench_sgd.test_an_update, ["torch"]),
        (bench_step.test_a_training_step, [32]),
        (bench_metrics.test_the_cost_of_detecting_nan, []),
    ],
    ids=lambda value: getattr(value, "__module__", None),
)
def test_a_benchmark_that_runs_once_has_its_numbers_too(
    measure, arguments, monkeypatch, tmp_path, tiny
):
    for home in (bench_checkpoint, bench_step):
        monkeypatch.setattr(home, "ResNet18", tiny_model)
    eager = {"source", "channels_last, fused SGD", "with AMP"}
    providers = {name: make for name, make in bench_step.PROVIDERS.items() if name in eager}
    providers["source"] = providers["channels_last, fused SGD"]
    monkeypatch.setattr(bench_step, "PROVIDERS", providers)
    # A step of the real network takes seconds, of which record_step is a tiny share.
    monkeypatch.setattr(bench_metrics, "LARGEST_SHARE", 1.0)
    benchmark = Once()
    given = [tmp_path] if measure is bench_checkpoint.test_a_save else []
    measure(benchmark, *arguments, *given)
    assert benchmark.group
    assert benchmark.extra_info or benchmark.stats is None


@pytest.fixture
def bare(monkeypatch):
    """As on a bare GPU machine: neither DALI nor albumentations."""
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    for bench in (importlib.reload(bench_loaders), bench_epoch):
        monkeypatch.setattr(bench, "installed", lambda *packages: False)
        for name in ("BATCH", "EPOCH", "STEPS", "ROUNDS"):
            monkeypatch.setattr(bench, name, 4, raising=False)
    yield
    monkeypatch.undo()
    importlib.reload(bench_loaders)


def test_what_is_not_installed_is_left_out_of_a_benchmark(bare, tiny):
    for measure, providers in (
        (bench_loaders.test_an_epoch, {"resident"}),
        (bench_epoch.test_an_epoch_with_its_loader, {"fasttrain"}),
    ):
        benchmark = Once()
        measure(benchmark)
        assert set(benchmark.extra_info["providers"]) == providers
    assert not conftest.installed("torch", "no_such_package")
    assert conftest.installed("torch")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_share_of_detecting_nan_is_limited_where_it_can_be_timed_alone(monkeypatch, device):
    """On a GPU five launches are mostly the wait for them."""
    monkeypatch.setattr(bench_metrics, "ours", lambda amp: tiny_step())
    monkeypatch.setattr(bench_metrics, "LARGEST_SHARE", 0.0)
    monkeypatch.setattr(bench_metrics, "DEVICE", SimpleNamespace(type=device))
    sums = metrics.zeros(torch.device("cpu"))
    monkeypatch.setattr(metrics, "zeros", lambda device: sums)
    if device == "cuda":
        bench_metrics.test_the_cost_of_detecting_nan(Once())
    else:
        with pytest.raises(AssertionError):
            bench_metrics.test_the_cost_of_detecting_nan(Once())


def test_steps_are_timed_with_the_switches_of_a_run(monkeypatch):
    monkeypatch.setattr(bench_step, "PROVIDERS", {"source": lambda: lambda images, labels: None})
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        bench_step.test_a_training_step(Once(), 2)
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = before


def test_pytest_benchmarks_measures_without_another_flag(pytestconfig):
    assert pytestconfig.pluginmanager.hasplugin("benchmark")
    assert not [word for word in pytestconfig.getini("addopts") if "benchmark" in word]


def test_the_table_of_preparing_has_each_provider_and_the_memory():
    row = {"n": 5, "images_per_second": 3400.4, "of_cores_times_one_thread": 0.846}
    result = {
        "command": "python -m benchmarks.bench_prepare",
        "environment": ENVIRONMENT,
        "load": 0.5,
        "group": "preparing 10 JPEGs",
        "cores": 2,
        "bar": 0.8,
        "rows": [{"provider": "ours", **row}],
        "peak_bytes": {"these 10": 300 << 20, "not on this system": None},
    }
    made = preparing.table([result])
    assert "| ours | 5 | 3,400 | 0.85 |" in made
    assert "Peak memory of ours, all its processes: 300 MiB, these 10." in made
    assert made.endswith("Wanted of ours: 0.8. By `python -m benchmarks.bench_prepare`.")


def test_the_small_sets_of_a_start_from_weights_are_few_images_of_other_classes(tmp_path):
    train, test = synthetic.load(400, 200)
    finetune.write(tmp_path / "few.npz", (train, test), range(5, 10), count=6)
    with np.load(tmp_path / "few.npz") as found:
        assert np.bincount(found["train_labels"][:, 0]).tolist() == [6] * 5
        assert found["test_images"].shape[0] == (test.labels >= 5).sum()
        image = train.images[np.flatnonzero(train.labels == 7)[0]]
        assert (found["train_images"][found["train_labels"][:, 0] == 2][0] == image).all()


def test_starts_become_rows_with_a_column_for_each_small_set():
    rows = [
        {"data": data, "start": start, "command": "c", "mean": mean, "deviation": 0.011}
        for data, start, mean in (("like", "a", 0.7), ("unlike", "a", 0.6), ("like", "b", 0.5))
    ]
    made = finetune.table([{"command": "c", "environment": ENVIRONMENT, "rows": rows}])
    assert made.splitlines()[-2:] == ["| a | 70.0% ± 1.1% | 60.0% ± 1.1% |", "| b | 50.0% ± 1.1% |"]
