"""The area under the ROC curve of one number an image, which tells two sets apart."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from core.metrics.mmd import Estimate


def area_under_curve(first: npt.ArrayLike, second: npt.ArrayLike) -> Estimate:
    """The probability that a value of the second set is above one of the first, and its standard error.

    1 where every value of the second set is above every one of the first, 0 where it is below, 0.5 where the values do
    not tell the sets apart. Equal values count as half.

    Args:
        first: (m,) finite values, m >= 2.
        second: (n,) finite values, n >= 2.
    Returns:
        The area, and its standard error under draws of both sets.
    Raises:
        ValueError: not one-dimensional, fewer than two values, or a value that is not finite.
    Source: Mann & Whitney 1947 (the U statistic); DeLong et al. 1988, equations 2 to 4 (its standard error).
    """
    sorted_values = []
    for name, values in (("first", np.asarray(first, np.float64)), ("second", np.asarray(second, np.float64))):
        if values.ndim != 1 or len(values) < 2:
            raise ValueError(f"{name}: shape {values.shape}: must be (n,) with n at least 2")
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: holds NaN or infinity: must be finite")
        sorted_values.append(np.sort(values))
    a, b = sorted_values
    of_second = _share_below(b, a)  # for each value of the second set, the share of the first below it
    of_first = 1 - _share_below(a, b)
    error = math.sqrt(of_first.var(ddof=1) / len(a) + of_second.var(ddof=1) / len(b))
    return Estimate(float(of_second.mean()), error)


def _share_below(values: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """For each value, the share of the sorted others that are below it; equal ones count as half."""
    ends = np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")
    return ends / (2 * len(others))
