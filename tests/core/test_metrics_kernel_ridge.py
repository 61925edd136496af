"""Kernel ridge regression learns what images show, its leave-one-out error is exact, and it repeats itself."""

import numpy as np
import pytest

from core.data.lenses import simulate
from core.metrics.kernel_ridge import KernelRidge


@pytest.fixture(scope="module")
def lenses():
    return simulate("model-1", 500, (32, 32), 5)


def test_it_learns_the_parameters_and_classes_of_lenses(lenses):
    images, labels, parameters = lenses
    model = KernelRidge(images[:350], images[350:])
    columns = np.stack([parameters["source_x"], parameters["source_y"]], axis=1)
    error = ((model.numbers(columns[:350]) - columns[350:]) ** 2).mean(axis=0)
    assert (1 - error / columns[350:].var(axis=0) > 0.99).all()
    assert (model.classes(labels[:350]) == labels[350:]).mean() > 0.5  # chance is 1/3, with a deviation of 0.04
    assert np.array_equal(KernelRidge(images[:350], images[350:]).classes(labels[:350]), model.classes(labels[:350]))


def test_the_leave_one_out_error_is_that_of_training_without_the_image(monkeypatch):
    """With the components and the scale of all images, which leaving one image out does not change here."""
    rng = np.random.default_rng(0)
    a, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 1))
    monkeypatch.setattr("core.metrics.kernel_ridge._components", lambda train, test: (a, a[:3]))
    images = np.full((30, 4, 4, 1), 0.5)
    squared = ((a[:, None] - a) ** 2).sum(axis=-1)
    kernel = np.exp(-0.1 / np.median(squared) * squared)
    fits = list(KernelRidge(images, images[:3])._fits(y - y.mean()))
    left_out, predicted = fits[3]  # the fourth penalty, 0.01
    others = np.arange(1, 30)
    weights = np.linalg.solve(kernel[1:, 1:] + 0.01 * np.eye(29), (y - y.mean())[others])
    assert left_out[0, 0] == pytest.approx((kernel[0, 1:] @ weights)[0], rel=1e-6)
    weights = np.linalg.solve(kernel + 0.01 * np.eye(30), y - y.mean())
    assert predicted == pytest.approx(kernel[:3] @ weights, rel=1e-6)


def test_what_does_not_fit_is_refused(lenses):
    images = lenses[0]
    for train, test, words in (
        (images[:19], images, "train: 19 images: must be from 20"),
        (images, images[:, :8], "test: images of"),
        (images + 1, images, "train: image 0"),
    ):
        with pytest.raises(ValueError, match=words):
            KernelRidge(train, test)


def test_equal_images_teach_the_mean():
    images = np.full((40, 8, 8, 1), 0.5)
    assert KernelRidge(images, images[:2]).numbers(np.arange(40.0)[:, None]) == pytest.approx(np.full((2, 1), 19.5))
