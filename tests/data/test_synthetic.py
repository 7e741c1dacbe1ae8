"""The synthetic data set is stable under its size, balanced, and learnable by texture only."""

import time

import numpy as np

from fasttrain.data import synthetic


def test_the_first_images_are_the_same_whatever_the_size():
    small, _ = synthetic.load(30, 10)
    large, _ = synthetic.load(2500, 10)
    assert (small.images == large.images[:30]).all()
    assert (small.labels == large.labels[:30]).all()


def test_seeds_and_halves_differ():
    train, test = synthetic.load(100, 100)
    other, _ = synthetic.load(100, 100, seed=1)
    assert (train.images != test.images).any()
    assert (train.images != other.images).any()


def test_classes_are_balanced_bytes_of_the_right_shape():
    train, test = synthetic.load(2000, 1000)
    assert train.images.shape == (2000, 32, 32, 3)
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int64
    assert np.bincount(test.labels).tolist() == [100] * 10


def test_neither_mean_colour_nor_pixels_tell_the_class_but_texture_does():
    train, test = synthetic.load(3000, 500)

    def nearest_centre(features):
        a, b = features(train.images), features(test.images)
        centres = np.stack([a[train.labels == k].mean(axis=0) for k in range(10)])
        guess = ((b[:, None] - centres) ** 2).sum(-1).argmin(1)
        return (guess == test.labels).mean()

    def spectrum(images):
        return np.abs(np.fft.rfft2(images.astype(float).mean(-1), axes=(1, 2))).reshape(
            len(images), -1
        )

    assert nearest_centre(lambda x: x.mean(axis=(1, 2), dtype=float)) < 0.2
    assert nearest_centre(lambda x: x.reshape(len(x), -1).astype(float)) < 0.25
    assert nearest_centre(spectrum) > 0.5


def test_making_a_thousand_images_takes_a_fraction_of_a_second():
    began = time.perf_counter()
    synthetic.load(1000, 0)
    assert time.perf_counter() - began < 2.0
