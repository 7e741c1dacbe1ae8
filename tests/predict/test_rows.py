"""Rows are what other programs read: each format holds every prediction, and nothing else."""

import csv
import io
import json

import pytest

from fasttrain.predict import rows
from fasttrain.predict.prediction import Prediction

CLASSES = ("ant", "bee, or wasp", "c\ud800w")
FOUND = [
    [
        Prediction("a.png", "ant", 0.75, (("ant", 0.75), ("bee, or wasp", 0.2500001))),
        Prediction("b\n.png", None, 0.5, (("bee, or wasp", 0.5), ("ant", 1e-9))),
    ],
    [],
    [Prediction('"c".png', None, None, error="damaged: x, y")],
]
ALL = [row for batch in FOUND for row in batch]


def made(form, found=FOUND, *, top=2):
    return "".join(rows.texts(iter(found), form, top=top, classes=CLASSES))


def test_csv_is_read_back_by_any_reader():
    found = list(csv.DictReader(io.StringIO(made("csv"), newline="")))
    assert list(found[0]) == [
        "path",
        "class",
        "probability",
        "class_1",
        "probability_1",
        "class_2",
        "probability_2",
        "error",
    ]
    assert [row["path"] for row in found] == [row.path for row in ALL]
    assert [row["class"] for row in found] == ["ant", "", ""]
    assert [row["class_2"] for row in found] == ["bee, or wasp", "ant", ""]
    assert [row["probability"] for row in found] == ["0.75", "0.5", ""]
    assert float(found[1]["probability_2"]) == 1e-9
    assert [row["error"] for row in found] == ["", "", "damaged: x, y"]
    assert made("csv", top=1).splitlines()[:2] == [
        "path,class,probability,error",
        "a.png,ant,0.75,",
    ]


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_json_holds_every_prediction(form):
    text = made(form)
    found = json.loads(text) if form == "json" else [json.loads(x) for x in text.splitlines()]
    assert [(row["path"], row["class"], row["probability"], row["error"]) for row in found] == [
        (row.path, row.class_name, row.probability, row.error) for row in ALL
    ]
    assert [each["class"] for each in found[1]["top"]] == ["bee, or wasp", "ant"]
    assert found[2]["top"] == []


def test_json_of_nothing_is_a_list_of_nothing():
    assert json.loads(made("json", [])) == []
    assert json.loads(made("json", [[], []])) == []
    assert made("jsonl", []) == ""
    assert made("csv", [], top=1) == "path,class,probability,error\n"


def test_batches_without_a_row_spoil_no_json():
    for found in ([[], FOUND[0]], [FOUND[0], []], [[], FOUND[0], [], FOUND[2]]):
        assert len(json.loads(made("json", found))) == sum(map(len, found))


def test_the_table_is_a_line_an_image_whatever_its_name():
    lines = made("table").splitlines()
    assert lines == [
        "ant           75.00 %  a.png  (bee, or wasp 25.00 %)",
        "unsure        50.00 %  'b\\n.png'  (ant 0.00 %)",
        '-                   -  "c".png: damaged: x, y',
    ]


@pytest.mark.parametrize("form", ["csv", "json", "jsonl", "table"])
def test_rows_come_as_predictions_do(form):
    taken = 0

    def batches():
        nonlocal taken
        for batch in (FOUND[0], FOUND[2]):
            taken += 1
            yield batch

    text = ""
    for piece in rows.texts(batches(), form, top=1, classes=CLASSES):
        text += piece
        if "a.png" in text:
            break
    assert taken == 1
