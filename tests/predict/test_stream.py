"""Images are decoded ahead, answered in order, and give what the run's own evaluation counted."""

import io
import json
import threading
import time
from contextlib import closing

import numpy as np
import pytest
import torch
from made_images import picture
from PIL import Image

import fasttrain
from fasttrain.data import content, crew
from fasttrain.errors import UsageError
from fasttrain.predict import inputs, stream
from fasttrain.predict.score import Score


@pytest.fixture(scope="module")
def classifier(trained):
    return fasttrain.load(trained, device="cpu")


def answered(classifier, items, **options):
    return [one for batch in stream.answers(classifier, items, **options) for one in batch]


def test_the_test_images_as_files_give_what_the_run_counted(classifier, trained, pictures):
    counted = json.loads((trained / "class_accuracy.json").read_text())
    score = Score(classifier.classes)
    for answer in answered(classifier, inputs.of_path(str(pictures), classifier.classes)):
        assert answer.error is None
        score.add(answer)
    assert score.confusion.tolist() == counted["confusion"]
    right = [row["correct"] for row in counted["classes"]]
    assert np.diag(score.confusion).tolist() == right
    assert 0 < sum(right) < 300  # the control: a network that is neither perfect nor blind
    assert (score.confusion.sum(axis=0) > 0).sum() > 2


def test_a_folder_smaller_than_a_batch_gives_the_same_numbers(classifier, pictures):
    every = answered(classifier, inputs.of_path(str(pictures), classifier.classes))
    known = {one.item.path: one.probabilities for one in every}
    folder = str(pictures / "cat")
    few = answered(classifier, inputs.of_path(folder, classifier.classes))
    assert 0 < len(few) < classifier.batch_size < len(every)
    for one in few:
        np.testing.assert_array_equal(one.probabilities, known[one.item.path])


def test_an_odd_batch_size_is_not_filled_up_with_more_than_the_usual(classifier, monkeypatch):
    sizes, real = [], classifier.probabilities

    def seen(images, *, batch_size, **options):
        sizes.append((len(images), batch_size))
        return real(images, batch_size=batch_size, **options)

    monkeypatch.setattr(classifier, "probabilities", seen)
    items = [inputs.Item(None, np.zeros((32, 32, 3), np.uint8))] * 3
    for size in (2, 3, 9, 40_000, None):
        assert len(answered(classifier, items, batch_size=size)) == 3
    assert sizes == [(2, 2), (1, 2), (3, 3), (3, 9), (3, 250), (3, 250)]


def test_bad_files_are_answered_in_their_places(classifier, tmp_path):
    items, bad = [], {0, 3, 4, 17, 40}
    for number in range(41):
        path = tmp_path / f"{number}.png"
        picture(number).save(path)
        if number in bad:
            path.write_bytes(b"no image")
        items.append(inputs.Item(str(path), content.of_file(str(path))))
    for size in (1, 5, 41, 100):
        found = answered(classifier, items, batch_size=size)
        assert [one.item.path for one in found] == [item.path for item in items]
        assert {n for n, one in enumerate(found) if one.error} == bad
        assert {n for n, one in enumerate(found) if one.probabilities is None} == bad
    assert "not an image that Pillow knows" in found[0].error


def test_nothing_is_read_far_ahead_of_the_answers(classifier):
    """So memory does not grow with the number of images: what is under way is bounded."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    taken = 0

    def many():
        nonlocal taken
        for number in range(1, 50_000):
            taken = number
            yield inputs.Item(None, pixels)

    ahead = 2 * crew.AHEAD * crew.TOGETHER
    with closing(stream.answers(classifier, many(), threads=2)) as found:
        for number in range(1, 12):
            assert len(next(found)) == classifier.batch_size
            assert taken <= number * classifier.batch_size + ahead + crew.TOGETHER


def test_only_bad_files_do_not_wait_for_a_batch_of_good_ones(classifier):
    taken = 0

    def many():
        nonlocal taken
        for number in range(1, 50_000):
            taken = number
            yield inputs.Item("x", error="broken")

    with closing(stream.answers(classifier, many(), batch_size=2, threads=1)) as found:
        assert len(next(found)) == stream.MOST_WAITING * 2
    assert taken < 100


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_beside_a_gpu_decoding_goes_on_while_the_network_computes(device, classifier, monkeypatch):
    """On a CPU, whose cores both need, an image that was begun is finished, and no other begun."""
    computing, decoded, beside = threading.Event(), [], []

    def slow(content, *_, **__):
        if len(decoded) >= 4:  # of the second batch
            computing.wait(timeout=10 if device == "cuda" else 0.01)
        decoded.append(content)
        return content

    def computes(images, **_):
        computing.set()
        before, until = len(decoded), time.monotonic() + (10 if device == "cuda" else 0.1)
        while len(decoded) < 12 and time.monotonic() < until:
            time.sleep(0.001)
        beside.append(len(decoded) - before)
        return np.zeros((len(images), 10), np.float32)

    monkeypatch.setattr(content, "pixels", slow)
    monkeypatch.setattr(classifier, "probabilities", computes)
    monkeypatch.setattr(classifier, "device", torch.device(device))
    items = [inputs.Item(None, np.zeros((32, 32, 3), np.uint8))] * 12
    assert len(answered(classifier, items, batch_size=4, threads=1)) == 12
    assert len(decoded) == 12
    assert beside[0] == 8 if device == "cuda" else max(beside) <= 1


def test_an_error_of_the_network_leaves_no_thread_waiting_for_its_turn(classifier, monkeypatch):
    def fails(*_, **__):
        raise ValueError("broken network")

    monkeypatch.setattr(classifier, "probabilities", fails)
    items = [inputs.Item(None, np.zeros((32, 32, 3), np.uint8))] * 3000
    with pytest.raises(ValueError, match="broken network"):
        answered(classifier, items)
    assert not [t for t in threading.enumerate() if t.name.startswith("fasttrain-images")]


def test_python_takes_paths_bytes_arrays_and_pillows_images_alike(classifier, pictures):
    path = sorted((pictures / "dog").iterdir())[0]
    (of_path,) = classifier.predict(path, top=3)
    (of_array,) = classifier.predict(np.asarray(Image.open(path)), top=3)
    assert of_path.path == str(path)
    assert of_array == of_path._replace(path=None)
    for same in (path.read_bytes(), Image.open(path), str(path), [path]):
        assert classifier.predict(same, top=3)[0][1:] == of_path[1:]
    four = np.stack([np.asarray(Image.open(path))] * 4)
    many = classifier.predict([four, path, Image.open(path)], top=3)
    assert [one[1:] for one in many] == [of_path[1:]] * 6
    assert of_path.class_name == of_path.top[0][0]
    assert of_path.probability == of_path.top[0][1]
    chances = [chance for _, chance in of_path.top]
    assert chances == sorted(chances, reverse=True)
    assert len(chances) == 3


def test_arrays_of_any_size_are_prepared_as_files_are(classifier, tmp_path):
    for number, (height, width) in enumerate([(300, 500), (7, 9), (32, 32), (1, 40)]):
        image = picture(number, height=height, width=width)
        image.save(tmp_path / "a.png")
        (of_file,) = classifier.predict(tmp_path / "a.png")
        (of_array,) = classifier.predict(np.asarray(image))
        (of_grey,) = classifier.predict(np.asarray(image.convert("L")))
        assert of_array[1:] == of_file[1:]
        assert of_grey[1:] == classifier.predict(image.convert("L"))[0][1:]


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((32, 32, 3), np.float32),
        np.zeros((32, 32, 2), np.uint8),
        np.zeros((0, 32, 3), np.uint8),
        np.zeros(32, np.uint8),
        5,
        None,
        [1.5],
    ],
)
def test_what_can_be_no_image_is_refused_in_a_line(classifier, bad):
    with pytest.raises(UsageError, match=r"^image \(.*Convert it\.$"):
        classifier.predict(bad)


def test_a_torch_tensor_is_an_array(classifier):
    pixels = np.asarray(picture(1))
    assert classifier.predict(torch.from_numpy(pixels.copy())) == classifier.predict(pixels)


def test_a_damaged_upload_is_an_answer_with_its_reason(classifier):
    data = io.BytesIO()
    picture(1).save(data, "PNG")
    good, cut, text = classifier.predict([data.getvalue(), data.getvalue()[:90], b"<html>"])
    assert good.error is None
    assert cut.error.startswith("damaged: ")
    assert text.error.startswith("not an image that Pillow knows")
    assert (cut.class_name, cut.probability, cut.top) == (None, None, ())


def test_below_the_threshold_no_class_is_named(classifier, pictures):
    sure = classifier.predict(pictures / "cat", top=2)
    limit = sorted(one.probability for one in sure)[len(sure) // 2]
    found = classifier.predict(pictures / "cat", top=2, threshold=limit)
    for one, before in zip(found, sure, strict=True):
        kept = before.class_name if before.probability >= limit else None
        assert one == before._replace(class_name=kept)
    assert None in {one.class_name for one in found}


def test_more_classes_than_there_are_cannot_be_named(classifier):
    with pytest.raises(UsageError, match=r"--top \(11\): must be from 1 to 10"):
        classifier.predict([], top=11)
    assert classifier.predict([], top=10) == []


def test_flips_average_over_the_mirror_image(classifier):
    image = picture(3)
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    (plain,), (both,), (other,) = (
        classifier.predict(one, flips=flips)
        for one, flips in ((image, False), (image, True), (mirrored, True))
    )
    assert both.probability == pytest.approx(other.probability, rel=0.01)
    assert plain.probability != both.probability
