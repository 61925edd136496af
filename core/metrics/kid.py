"""KID: the maximum mean discrepancy of two sets of features under the cubic kernel (x.y / d + 1)^3.

Imports NumPy and core only. Two estimates of one number. `kid` takes all pairs at once, has the smallest variance and
its own standard error: the one to report. `kid_subsets` averages the estimates of random subsets, as the peers do, for
comparison with their numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.metrics.mmd import Estimate, two_sample
from core.metrics.moments import FloatArray, check_features


class SubsetEstimate(NamedTuple):
    """KID over random subsets."""

    mean: float
    """Mean of the subsets' estimates: clean-fid's result, and torch-fidelity's mean."""
    std: float
    """Standard deviation of one subset's estimate, divisor the number of subsets: torch-fidelity's std."""
    standard_error: float
    """std / sqrt(number of subsets): the error of the mean against all possible subsets of these very rows.

    It says nothing about other rows: subsets of one set share rows, and with more of them it goes to 0.
    """


def cubic_kernel(a: FloatArray, b: FloatArray) -> FloatArray:
    """(x.y / d + 1)^3 of every pair of rows. Source: Binkowski et al. 2018."""
    kernel = a @ b.T
    kernel /= a.shape[1]
    kernel += 1.0
    return kernel * kernel * kernel  # a power would take ten times as long


def kid(features1: npt.ArrayLike, features2: npt.ArrayLike) -> Estimate:
    """Unbiased KID of two whole sets, and its standard error.

    Args:
        features1: (m, d), m >= 3.
        features2: (n, d), n >= 3.
    Returns:
        KID, which may fall below 0 where the sets are alike, and its standard error under draws of both sets.
    Raises:
        ValueError: wrong shape, fewer than three rows, another d, or a value that is not finite.
    Source: Binkowski et al. 2018; Gretton et al. 2012, equation 3.
    """
    x = check_features(features1, "features1", least=3)
    y = check_features(features2, "features2", x.shape[1], least=3)
    sums = two_sample(x, y, cubic_kernel)
    return Estimate(sums.unbiased, sums.standard_error)


def kid_subsets(
    features1: npt.ArrayLike,
    features2: npt.ArrayLike,
    subset_size: int = 1000,
    subsets: int = 100,
    seed: int = 2020,
) -> SubsetEstimate:
    """Mean of the unbiased KID of random subsets, as torch-fidelity (0.4.0) and clean-fid compute it.

    The draws are torch-fidelity's too, so that one seed gives its numbers (2020 is its default): NumPy's legacy
    generator, whose stream is frozen; for each subset rows of the first set, then of the second, without replacement.

    Args:
        features1: (m, d), m >= subset_size.
        features2: (n, d), n >= subset_size.
        subset_size: rows drawn from each set, at least 2.
        subsets: number of subsets.
        seed: of the draws, in [0, 2^32).
    Returns:
        Mean, standard deviation and standard error of the mean over the subsets.
    Raises:
        ValueError: wrong shape, fewer rows than subset_size, another d, a value that is not finite, or an integer out
            of range.
    Source: Binkowski et al. 2018.
    """
    for name, value, low in (("subset_size", subset_size, 2), ("subsets", subsets, 1)):
        if value < low:
            raise ValueError(f"{name} = {value}: must be at least {low}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed = {seed}: must be in [0, 2^32)")
    x = check_features(features1, "features1", least=subset_size)
    y = check_features(features2, "features2", x.shape[1], least=subset_size)
    rng = np.random.RandomState(seed)
    values = np.empty(subsets)
    for i in range(subsets):
        first = x[rng.choice(len(x), subset_size, replace=False)]
        second = y[rng.choice(len(y), subset_size, replace=False)]
        values[i] = two_sample(first, second, cubic_kernel).unbiased
    std = float(values.std())
    return SubsetEstimate(float(values.mean()), std, std / float(np.sqrt(subsets)))
