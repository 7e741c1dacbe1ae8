"""Several runs of one recipe: every one is listed, and the sums are those of statistics."""

import json
from statistics import mean, stdev

import pytest

from fasttrain import series
from fasttrain.display import Display
from fasttrain.errors import UsageError
from fasttrain.flags import read
from fasttrain.recipe import Recipe

ROWS = [
    {"seed": 0, "final_test_accuracy": 0.90, "seconds_to_target": 10.0},
    {"seed": 1, "final_test_accuracy": 0.87},
    {"seed": 2, "final_test_accuracy": 0.91, "seconds_to_target": 14.0},
]


def test_mean_spread_and_share_are_over_all_runs_and_times_over_those_that_arrived():
    found = series.sum_up(ROWS, target=0.88)
    accuracies = [row["final_test_accuracy"] for row in ROWS]
    assert found["accuracy_mean"] == pytest.approx(mean(accuracies))
    assert found["accuracy_deviation"] == pytest.approx(stdev(accuracies))
    assert (found["count"], found["reached"], found["seconds_mean"]) == (3, 2, 12.0)
    assert "2 of 3 reached 88.00%, in 12.0 s" in series.describe(found)


def test_a_series_that_never_arrives_has_no_time():
    found = series.sum_up(ROWS[1:2], target=0.88)
    assert (found["reached"], found["seconds_mean"]) == (0, None)
    assert series.describe(found).endswith("0 of 1 reached 88.00%")


def test_without_a_target_there_is_only_the_accuracy():
    assert "reached" not in series.describe(series.sum_up(ROWS, target=None))


def test_each_run_gets_its_own_seed_and_folder_and_those_there_are_gone_on_with(
    tmp_path, monkeypatch
):
    started = []

    def train(recipe, *, out, continued, **rest):
        started.append((recipe.seed, out.name, continued))
        out.mkdir(exist_ok=True)
        (out / "recipe.json").write_text("{}")
        row = {"final_test_accuracy": 0.5 + recipe.seed / 100, "ledger": {}}
        (out / "summary.json").write_text(json.dumps(row))

    monkeypatch.setattr(series, "train", train)
    series.train_runs(Recipe(seed=3), 2, out=tmp_path)
    series.train_runs(Recipe(seed=3), 3, out=tmp_path, go_on=True, display=Display())
    again = [(n, f"seed-{n}", tmp_path / f"seed-{n}") for n in (3, 4)]
    fresh = [(n, f"seed-{n}", None) for n in (3, 4)]
    assert started == [*fresh, *again, (5, "seed-5", None)]
    kept = json.loads((tmp_path / "series.json").read_text())
    assert [row["seed"] for row in kept["runs"]] == [3, 4, 5]
    assert "ledger" not in kept["runs"][0]
    assert kept["environment"]["torch"]


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "٣", "10000"])
def test_a_number_of_runs_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match=r"--runs"):
        read(["--runs", text])


def test_three_runs_are_read_as_three():
    assert read(["--runs", "3"])[1].runs == 3
