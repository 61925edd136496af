"""KID: the maximum mean discrepancy of two sets of features under the cubic kernel (x.y / d + 1)^3.

All pairs of rows are taken at once, which has the smallest variance and gives a standard error. The peers average over
random subsets instead.
"""

from __future__ import annotations

import numpy.typing as npt

from core.metrics.mmd import Estimate, two_sample
from core.metrics.moments import FloatArray, check_features


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
