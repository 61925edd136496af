"""Squared error and PSNR in closed form, SSIM against scikit-image's stored figures, chi squared of known noise."""

import re

import numpy as np
import pytest

from core.metrics.restoration import mean_squared_error, psnr, residual_chi_squared, structural_similarity


def pair(shape=(3, 17, 23, 2)):
    rng = np.random.default_rng(15)
    x = rng.random(shape)
    return x, np.clip(x + 0.2 * rng.standard_normal(shape), 0, 1)


# scikit-image 0.26.0, installed with `pip install scikit-image --target SITE`; with x, y = pair():
# [structural_similarity(a, b, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
#  data_range=1) for a, b in zip(x, y)]
SCIKIT_IMAGE = [0.8023982991171625, 0.8074987091262638, 0.811582325614773]


def test_ssim_is_that_of_scikit_image():
    assert structural_similarity(*pair()) == pytest.approx(SCIKIT_IMAGE, abs=1e-12)


def test_ssim_of_equal_images_is_1_and_of_two_flat_ones_the_luminance_term():
    x, _ = pair()
    assert structural_similarity(x, x) == pytest.approx(np.ones(3), abs=1e-14)
    flat = np.full((300, 12, 12, 1), 0.25, np.float32)  # more than one block
    expected = (2 * 0.25 * 0.5 + 1e-4) / (0.25**2 + 0.5**2 + 1e-4)
    assert structural_similarity(flat, 2 * flat) == pytest.approx(np.full(300, expected), abs=1e-12)


def test_psnr_in_closed_form():
    x = np.full((4, 8, 8, 3), 0.5)
    moved = x + np.array([0.0, 0.1, 0.01, 0.5])[:, None, None, None]
    assert mean_squared_error(x, moved) == pytest.approx([0, 1e-2, 1e-4, 0.25], abs=1e-15)
    assert psnr(mean_squared_error(x, moved)) == pytest.approx([np.inf, 20, 40, 20 * np.log10(2)], rel=1e-12)


def test_chi_squared_of_white_noise_is_1_a_measured_value():
    rng = np.random.default_rng(0)
    expected = rng.random((200, 8, 8, 1))
    known = rng.random((8, 8, 1)) < 0.3
    y = (expected + 0.05 * rng.standard_normal(expected.shape)) * known
    found = residual_chi_squared(y, expected * known, 0.05, int(known.sum()))
    assert found.mean() == pytest.approx(1, abs=4 * np.sqrt(2 / known.sum() / 200))
    assert residual_chi_squared(y, expected * known, 0.1, int(known.sum())) == pytest.approx(found / 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: structural_similarity(x, x[:2]), "must be"),
        (lambda x: mean_squared_error(x, x + 1), "restored: image 0"),
        (lambda x: structural_similarity(x[:, :10], x[:, :10]), "images of 10 pixels: must be at least 11"),
        (lambda x: residual_chi_squared(x, x[:2], 1, 1), "must be (2,"),
        (lambda x: residual_chi_squared(x, x, 0, 1), "noise = 0"),
        (lambda x: residual_chi_squared(x, x, 1, 0), "count = 0"),
    ],
)
def test_what_is_wrong_is_named(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call(pair()[0])
