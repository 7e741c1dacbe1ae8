"""The score of a folder of class folders is its confusion table, in a few lines."""

import numpy as np
import pytest

from fasttrain.predict.inputs import Item
from fasttrain.predict.score import Score
from fasttrain.predict.stream import Answer


def scored(classes, *seen, threshold=0.0):
    """A score of (label, number of the predicted class, its probability)."""
    score = Score(classes, threshold=threshold)
    for label, predicted, probability in seen:
        found = np.full(len(classes), (1 - probability) / max(len(classes) - 1, 1))
        found[predicted] = probability
        score.add(Answer(Item("x", label=label), found.astype(np.float32)))
    return score


def test_it_counts_only_images_that_are_said_to_be_of_a_class():
    classes = ("ant", "bee")
    seen = [("ant", 0, 0.9), ("ant", 1, 0.8), ("bee", 1, 0.6), (None, 0, 0.9), ("wasp", 0, 0.9)]
    score = scored(classes, *seen)
    score.add(Answer(Item("x", label="ant"), None, "damaged"))
    assert score.confusion.tolist() == [[1, 1], [0, 1]]
    assert score.text().splitlines() == [
        "accuracy 66.67 %: 2 of 3 images; 2 more images without a class of this network, "
        "1 of them of a class unknown to it",
        "true class, predicted as",
        "         0   1  correct",
        " 0 ant   1   1  50.00 %",
        " 1 bee   0   1 100.00 %",
    ]


def test_without_a_label_there_is_nothing_to_say():
    assert scored(("ant", "bee"), (None, 0, 0.9), ("wasp", 1, 0.9)).text() == ""


def test_a_threshold_adds_the_accuracy_of_what_is_above_it():
    seen = [("ant", 0, 0.9), ("ant", 1, 0.6), ("bee", 0, 0.8)]
    lines = scored(("ant", "bee"), *seen, threshold=0.7).text().splitlines()
    assert lines[0] == "accuracy 33.33 %: 1 of 3 images"
    assert lines[1] == "at a probability of 0.7 or more: accuracy 50.00 %: 1 of 2 images"
    lines = scored(("ant", "bee"), *seen, threshold=0.95).text().splitlines()
    assert lines[1] == "at a probability of 0.95 or more: no image"


@pytest.mark.parametrize(("count", "table"), [(20, True), (21, False)])
def test_of_many_classes_only_the_worst_confusions_are_shown(count, table):
    classes = [f"class {number}" for number in range(count)]
    seen = [(classes[3], 4, 0.9)] * 5 + [(classes[0], 1, 0.9)] + [(classes[3], 3, 0.9)] * 2
    text = scored(classes, *seen).text()
    assert ("predicted as" in text) is table
    assert ("  class 3 as class 4: 5 of 7\n  class 0 as class 1: 1 of 1\n" in text) is not table
    if not table:
        assert text.endswith("1 of 1\n")


def test_every_row_of_the_table_is_as_wide():
    classes = [f"class {number}" for number in range(12)]
    score = scored(classes, (classes[0], 0, 0.9), (classes[11], 3, 0.9))
    score.confusion[5, 6] = 123456
    rows = score.text().splitlines()[2:]
    assert len({len(row) for row in rows}) == 1
    assert "123456" in rows[6]
