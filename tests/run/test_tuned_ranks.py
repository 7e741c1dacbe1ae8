"""Several processes measure together and choose the same."""

from __future__ import annotations

import json

import pytest
from processes import flags
from ranks import Ranks
from tiny_runs import end, same

pytestmark = [pytest.mark.usefixtures("tiny"), pytest.mark.slow]
# Of 268 steps, long enough to be measured; but the target is reached after the first epoch.
LONG = {"epochs": 134, "train_limit": 32, "test_limit": 16, "target_accuracy": 0.0}
LONG |= {"tune": "always"}


def test_two_ranks_measure_and_train_as_one_with_what_was_chosen(tmp_path):
    words = flags(tmp_path / "a", **LONG, cache_dir=tmp_path / "cache")
    for ended in Ranks(tmp_path / "log", words, plain=True).ended():
        assert (ended.status, ended.err) == (0, "")
    found = json.loads((tmp_path / "a" / "environment.json").read_text())
    chosen = {name: choice["value"] for name, choice in found["choices"].items()}
    if len(found["measured"]["steps"]) > 1:  # this CPU has another precision than float32
        assert found["choices"]["amp"]["why"].startswith("measured: ")
        assert len(list((tmp_path / "cache" / "measured").iterdir())) == 1
    asked = {**LONG, "tune": "off", "amp": chosen["amp"]}
    for ended in Ranks(tmp_path / "log", flags(tmp_path / "b", **asked), plain=True).ended():
        assert ended.status == 0
    assert same(end(tmp_path / "a"), end(tmp_path / "b"))
