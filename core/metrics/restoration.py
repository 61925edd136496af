"""How near restored images lie to the truth: squared error, PSNR, SSIM, and the residual of the measurement.

Each function compares image with image, in [0, 1], and returns one number an image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from core.metrics.moments import FloatArray
from core.metrics.pixels import Images, check_images

WINDOW_SIGMA = 1.5
"""Standard deviation of SSIM's window in pixels."""
WINDOW_RADIUS = 5
"""The window has 2 x 5 + 1 pixels: 3.5 standard deviations, rounded."""
C1, C2 = 0.01**2, 0.03**2
BLOCK = 256  # images a time, so that float64 copies stay small


def check_pair(truth: Images, restored: Images) -> None:
    """Raise ValueError where two sets are not images in [0, 1] of equal number and size."""
    check_images(truth, "truth")
    check_images(restored, "restored")
    if truth.shape != restored.shape:
        raise ValueError(f"restored: images {restored.shape}: must be {truth.shape} as the truth")


def mean_squared_error(truth: Images, restored: Images) -> FloatArray:
    """Mean over pixels and channels of the squared difference.

    Args:
        truth, restored: (N, H, W, C) in [0, 1].
    Returns:
        (N,) float64, in intensity squared.
    Raises:
        ValueError: images as `check_images`, or sets of different size.
    """
    check_pair(truth, restored)
    return _in_blocks(lambda a, b: ((a - b) ** 2).mean(axis=(1, 2, 3)), truth, restored)


def psnr(squared_error: npt.ArrayLike) -> FloatArray:
    """Peak signal-to-noise ratio of images in [0, 1]: -10 log10 of the mean squared error.

    Args:
        squared_error: (N,) of mean_squared_error().
    Returns:
        (N,) float64 in dB; infinity where an image equals the truth.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(-10 * np.log10(np.asarray(squared_error, np.float64)))


def structural_similarity(truth: Images, restored: Images) -> FloatArray:
    """SSIM: mean of the similarity map over every place where the whole window lies inside the image, and channels.

    The window is a Gaussian of 1.5 pixels, cut at 5, and variances are those of the population.

    Args:
        truth, restored: (N, H, W, C) in [0, 1], H and W at least 11.
    Returns:
        (N,) float64 in [-1, 1], 1 for equal images.
    Raises:
        ValueError: images as `check_images`, sets of different size, or images smaller than the window.
    Source: Wang et al. 2004, equation 13; scikit-image's structural_similarity with gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, data_range=1.
    """
    check_pair(truth, restored)
    rows, columns = (_window_matrix(side) for side in truth.shape[1:3])

    def smooth(x: FloatArray) -> FloatArray:
        wide = np.tensordot(rows, x, axes=(1, 1))  # (H', B, W, C)
        return np.asarray(np.tensordot(columns, wide, axes=(1, 2)))  # (W', H', B, C)

    def similarity(a: FloatArray, b: FloatArray) -> FloatArray:
        mean_a, mean_b = smooth(a), smooth(b)
        square_a, square_b, product = mean_a * mean_a, mean_b * mean_b, mean_a * mean_b
        variances = smooth(a * a) - square_a + smooth(b * b) - square_b
        covariance = smooth(a * b) - product
        luminance = (2 * product + C1) / (square_a + square_b + C1)
        return np.asarray((luminance * (2 * covariance + C2) / (variances + C2)).mean(axis=(0, 1, 3)))

    return _in_blocks(similarity, truth, restored)


def residual_chi_squared(measured: npt.ArrayLike, expected: npt.ArrayLike, noise: float, count: int) -> FloatArray:
    """Chi squared a measured value: the sum of ((y - A x) / noise)^2 over their number.

    It is 1 on average for the true x and for draws of the posterior, since (draw, y) is distributed as (truth, y).

    Args:
        measured: (N, ...) y; 0 where nothing was measured.
        expected: (N, ...) A x, what the measurement of the image gives without noise; 0 there too.
        noise: standard deviation of y's noise, above 0.
        count: number of measured values an image, at least 1.
    Returns:
        (N,) float64.
    Raises:
        ValueError: shapes that differ, or a number out of range.
    """
    y, model = np.asarray(measured, np.float64), np.asarray(expected, np.float64)
    if y.shape != model.shape:
        raise ValueError(f"measured: shape {y.shape}: must be {model.shape}, which the operator gives")
    if not 0 < noise < np.inf:
        raise ValueError(f"noise = {noise}: must be above 0, in intensity")
    if count < 1:
        raise ValueError(f"count = {count}: must be at least 1 measured value")
    return np.asarray(((y - model) ** 2).reshape(len(y), -1).sum(axis=1) / (count * noise**2))


def _window_matrix(side: int) -> FloatArray:
    """(side - 10, side) weights of SSIM's window along one axis, at every place where it lies inside."""
    width = 2 * WINDOW_RADIUS + 1
    if side < width:
        raise ValueError(f"images of {side} pixels: must be at least {width} high and wide for SSIM")
    offsets = np.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2))
    matrix = np.zeros((side - width + 1, side))
    for row in range(len(matrix)):
        matrix[row, row : row + width] = weights / weights.sum()
    return matrix


def _in_blocks(measure: Callable[[FloatArray, FloatArray], FloatArray], truth: Images, restored: Images) -> FloatArray:
    """One number an image, some images at a time, in float64."""
    starts = range(0, len(truth), BLOCK)
    pairs = ((x[start : start + BLOCK].astype(np.float64) for x in (truth, restored)) for start in starts)
    return np.concatenate([measure(*pair) for pair in pairs])
