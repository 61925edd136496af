"""Whether several draws an image spread as the truth does about them: ranks, coverage, spread.

If truth and draws come from the same distribution given the input, the truth's rank among K draws is uniform on
0 ... K, for every number that can be measured on an image. Tied values share their ranks evenly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from core.metrics.moments import FloatArray

LEAST_EXPECTED = 5
"""Smallest expected count of a rank for Pearson's test."""


class Coverage(NamedTuple):
    """Central intervals between draws, and how often they hold the truth."""

    nominal: FloatArray
    """(L,) share of truths that the interval should hold, from the narrowest interval to the widest."""
    each: FloatArray
    """(N, L) share of each image's values that it holds."""


def rank_shares(truth: npt.ArrayLike, draws: npt.ArrayLike) -> FloatArray:
    """Each image's histogram of the ranks of true values among draws.

    Args:
        truth: (N, P) P values an image, such as its pixels.
        draws: (N, K, P) the same values of K draws.
    Returns:
        (N, K + 1) float64: share of the image's values that lie above exactly k draws. Rows sum to 1.
    Raises:
        ValueError: shapes that do not fit.
    Source: Hamill 2001; Talts et al. 2018, theorem 1.
    """
    x, several = np.asarray(truth), np.asarray(draws)
    if x.ndim != 2 or several.ndim != 3 or several.shape[::2] != x.shape or 0 in several.shape:
        raise ValueError(f"draws: shape {several.shape}: must be (N, K, P) with truth {x.shape} (N, P)")
    count, values = x.shape
    k = several.shape[1]
    below, tied = (several < x[:, None]).sum(axis=1), (several == x[:, None]).sum(axis=1)
    shares = np.zeros((count, k + 1))
    place = (np.arange(count)[:, None] * (k + 1) + below).ravel()
    for extra in range(int(tied.max()) + 1):
        here = tied.ravel() >= extra
        weights = 1.0 / (tied.ravel()[here] + 1)
        shares += np.bincount(place[here] + extra, weights, count * (k + 1)).reshape(count, k + 1)
    return np.asarray(shares / values)


def coverage(shares: FloatArray) -> Coverage:
    """Coverage of the central intervals between draws, from ranks.

    The interval from the j-th smallest to the j-th largest of K draws should hold (K + 1 - 2 j) / (K + 1) of truths.

    Args:
        shares: (N, K + 1) of rank_shares().
    """
    ranks = shares.shape[1]
    trims = np.arange(ranks // 2 if ranks % 2 else ranks // 2 - 1, 0, -1)
    held = [shares[:, j : ranks - j].sum(axis=1) for j in trims]
    each = np.stack(held, axis=1) if held else np.zeros((len(shares), 0))
    return Coverage((ranks - 2 * trims) / ranks, each)


def uniform_test(shares: FloatArray) -> float | None:
    """p-value of the hypothesis that ranks are uniform, by a chi-squared test over images.

    With one value an image it is Pearson's. With many values an image, whose ranks depend on each other, images are the
    independent units: the deviation of the mean histogram is measured in its covariance between images.

    Args:
        shares: (N, K + 1) of rank_shares().
    Returns:
        p; None where there are too few images for the test, or the covariance is singular.
    Source: Pearson 1900; Hotelling 1931, the T^2 statistic.
    """
    count, ranks = shares.shape
    k = ranks - 1
    if bool(((shares == 0) | (shares == 1)).all()):
        if count < LEAST_EXPECTED * ranks:
            return None
        statistic = float((((shares.sum(axis=0) - count / ranks) ** 2) / (count / ranks)).sum())
        return float(scipy.special.chdtrc(k, statistic))
    if count < LEAST_EXPECTED * ranks:
        return None
    gap = shares.mean(axis=0)[:k] - 1 / ranks
    covariance = np.atleast_2d(np.cov(shares[:, :k], rowvar=False))
    if np.linalg.matrix_rank(covariance) < k:
        return None
    squared = count * float(gap @ np.linalg.solve(covariance, gap))
    return float(scipy.special.fdtrc(k, count - k, squared * (count - k) / (k * (count - 1))))


def spread_ratio(truth: npt.ArrayLike, draws: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The two sides of the law of spread and error, one number an image each.

    Where draws are those of the posterior, (1 + 1/K) times the variance between draws equals the squared error of their
    mean, on average over images. A root ratio below 1 means draws too alike, above 1 too different.

    Args:
        truth: (N, P).
        draws: (N, K, P), K at least 2.
    Returns:
        expected: (N,) mean over values of (1 + 1/K) times the variance between draws, divisor K - 1.
        found: (N,) mean over values of the squared error of the mean of the draws.
    Source: Fortin et al. 2014, equation 15.
    """
    x, several = np.asarray(truth, np.float64), np.asarray(draws, np.float64)
    k = several.shape[1]
    if k < 2:
        raise ValueError(f"draws: {k} an image: must be at least 2")
    expected = (1 + 1 / k) * several.var(axis=1, ddof=1).mean(axis=1)
    return expected, ((several.mean(axis=1) - x) ** 2).mean(axis=1)
