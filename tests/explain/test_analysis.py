import numpy as np
import pytest

from fasttrain.explain import analysis
from fasttrain.explain.analysis import Predictions

CLASSES = ("a", "b", "c")


def predictions(rows, labels):
    return Predictions(np.array(rows, float), np.array(labels))


SIX = predictions(
    [
        [0.9, 0.05, 0.05],
        [0.2, 0.7, 0.1],
        [0.1, 0.1, 0.8],
        [0.3, 0.6, 0.1],
        [0.0, 0.99, 0.01],
        [0.4, 0.35, 0.25],
    ],
    [0, 0, 2, 1, 2, 0],
)


def test_the_wilson_interval_is_the_published_one():
    # Brown, Cai, DasGupta (2001) and every calculator: 8 of 10 -> 0.4901 to 0.9433.
    assert analysis.wilson(8, 10) == pytest.approx((0.4901, 0.9433), abs=1e-4)
    assert analysis.wilson(0, 10)[0] == 0.0
    assert analysis.wilson(10, 10)[1] == pytest.approx(1.0)
    assert analysis.wilson(0, 0) == (0.0, 1.0)


def test_the_confusion_matrix_counts_true_rows_and_predicted_columns():
    found = analysis.by_class(SIX, CLASSES)
    assert found["confusion"] == [[2, 1, 0], [0, 1, 0], [0, 1, 1]]
    first = found["classes"][0]
    assert (first["name"], first["count"], first["correct"]) == ("a", 3, 2)
    assert first["accuracy"] == pytest.approx(2 / 3)
    assert first["low"] < first["accuracy"] < first["high"]


def test_the_most_confident_mistakes_come_first():
    assert analysis.mistakes(SIX).tolist() == [4, 1]
    described = analysis.describe(SIX, analysis.mistakes(SIX), CLASSES)
    assert described[0] == {"index": 4, "true": "c", "predicted": "b", "confidence": 0.99}


def test_at_most_25_are_chosen_and_a_random_sample_follows_its_seed():
    generator = np.random.default_rng(0)
    many = Predictions(generator.dirichlet(np.ones(3), 200), generator.integers(0, 3, 200))
    confident = analysis.mistakes(many)
    assert len(confident) == 25
    confidence = many.probabilities[confident].max(axis=1)
    assert (np.diff(confidence) <= 0).all()
    random = analysis.mistakes(many, sample="random", seed=3)
    assert (random == analysis.mistakes(many, sample="random", seed=3)).all()
    assert (random != analysis.mistakes(many, sample="random", seed=4)).any()
    assert (many.predicted[random] != many.labels[random]).all()


def test_a_network_without_mistakes_has_none():
    right = predictions(np.eye(3), [0, 1, 2])
    assert analysis.mistakes(right).size == 0
    assert analysis.label_errors(right).size == 0
    assert analysis.describe(right, analysis.mistakes(right), CLASSES) == []


@pytest.mark.parametrize(("right", "found"), [(0.08, 0), (0.79, 0), (0.81, 20), (0.93, 7)])
def test_a_network_that_is_often_wrong_finds_no_label_errors(right, found):
    labels = np.arange(100) % 3
    rows = np.eye(3)[labels]
    wrong = np.arange(round(100 * (1 - right)))
    rows[wrong] = np.roll(rows[wrong], 1, axis=1)
    assert len(analysis.label_errors(Predictions(rows, labels))) == min(found, len(wrong))


def test_a_planted_label_error_is_the_likeliest_one():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 300)
    rows = np.full((300, 3), 0.05)
    rows[np.arange(300), labels] = 0.9
    labels[17] = (labels[17] + 1) % 3  # the network is right, the label is not
    rows[40] = [0.34, 0.33, 0.33]  # a mistake, but no confident one
    labels[40] = 1
    found = analysis.label_errors(Predictions(rows, labels))
    assert found.tolist() == [17]
