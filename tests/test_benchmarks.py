"""The README's table is what benchmarks/results holds."""

from benchmarks import table

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
                    "ours": {"n": 5, "images_per_second": 66.0, "times_source": 2.2},
                }
            },
        },
    ],
}


def test_the_readmes_table_is_made_from_the_kept_results():
    text = (table.ROOT / "README.md").read_text(encoding="utf-8")
    inside = text.split(table.BEGIN)[1].split(table.END)[0]
    assert inside.strip() == table.table(table.results()).strip()


def test_providers_that_took_turns_become_rows_of_their_own():
    rows = table.keep(RAW)["rows"]
    assert [row["provider"] for row in rows] == ["dali", "source", "ours"]
    assert rows[0]["median_seconds"] == 0.5
    made = table.table([table.keep(RAW)])
    assert "| step | ours | 5 | 66 | 2.20 |" in made
    assert "| loaders | dali | 10 | 40,960 |  |" in made
    assert "AMD EPYC, 2 cores, AVX512 with bf16; torch 2.13.0, commit c7f9014, 2026-11-23" in made
