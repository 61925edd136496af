"""Intervals for statistics of a set of images: how far other images of the same kind would move them.

Means take the bootstrap. Distances between distributions take the jackknife, since rows that a bootstrap repeats
enlarge a distance (core.metrics.intervals).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from core.metrics.moments import FloatArray
from core.random import generator

Rows = npt.NDArray[np.intp]

DRAWS = 2000
"""Of a bootstrap."""


class Estimate(NamedTuple):
    """A number and its interval."""

    value: float
    low: float
    high: float


def mean_intervals(
    values: npt.ArrayLike, draws: int = DRAWS, level: float = 0.95, seed: int = 0
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Means over images with percentile intervals of the bootstrap over images.

    Args:
        values: (N, M) M numbers an image, N at least 2. NaN stands for no number: such an image is left out.
        draws: bootstrap draws of N images, at least 2.
        level: share of such intervals that hold the expected mean, in (0, 1).
        seed: of the draws, in [0, 2^64).
    Returns:
        Three (M,) arrays: mean, low end, high end; NaN where no image has a number.
    Raises:
        ValueError: values of another shape, or a number out of range.
    Source: Efron & Tibshirani 1993, chapter 13.
    """
    x = np.asarray(values, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"values: shape {x.shape}: must be (N, M) with N at least 2")
    _check(level, draws=draws)
    there = ~np.isnan(x)
    filled = np.where(there, x, 0.0)
    counts = generator(seed, "rows", 0).multinomial(len(x), np.full(len(x), 1 / len(x)), size=draws)
    with np.errstate(invalid="ignore", divide="ignore"):  # no image with a number: NaN
        drawn = (counts @ filled) / (counts @ there.astype(np.float64))
        mean = filled.sum(axis=0) / there.sum(axis=0)
    low, high = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2), axis=0)
    return mean, low, high


def distance_interval(
    measure: Callable[[Rows], float], n: int, groups: int = 10, level: float = 0.95, seed: int = 0
) -> Estimate:
    """A distance, at least 0, with an interval by the delete-a-group jackknife over images.

    Args:
        measure: indices of images -> the distance of those images.
        n: number of images, at least 2 groups.
        groups: random groups of images, each left out once.
        level: as in mean_intervals().
        seed: of the groups, in [0, 2^64).
    Raises:
        ValueError: a number out of range.
    Source: Wolter 2007, chapter 4.
    """
    _check(level, groups=groups)
    if n < 2 * groups:
        raise ValueError(f"n = {n}: must be at least {2 * groups}, two images a group")
    cut = np.array_split(generator(seed, "rows", 1).permutation(n), groups)
    value = measure(np.arange(n))
    others = [measure(np.sort(np.concatenate(cut[:i] + cut[i + 1 :]))) for i in range(groups)]
    error = float(np.sqrt(np.var(others) * (groups - 1)))
    reach = float(scipy.special.stdtrit(groups - 1, (1 + level) / 2)) * error
    return Estimate(value, max(value - reach, 0.0), value + reach)


def _check(level: float, **counts: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: must be above 0 and below 1")
    for name, count in counts.items():
        if count < 2:
            raise ValueError(f"{name} = {count}: must be at least 2")
