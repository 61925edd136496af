"""How far a Fréchet distance from N rows can be trusted: its interval, its floor, and its limit for large N.

The distance from N rows is too large on average, by about a constant over N; at d = 2048 this excess may be most of it.
So there are three functions. `frechet_interval` says how far other N rows would change the number, excess included.
`frechet_floor` is the distance of real images to other real images at that N. `frechet_infinity` extrapolates to a
distance without the excess.

Why no bootstrap: rows drawn again with replacement repeat themselves, which adds the excess a second time. For 2,000
rows of a Gaussian with d = 32 against 2,000 more, the distance is 0.297 +- 0.018 and its bootstrap draws are
0.588 +- 0.030: their interval does not contain the distance. Rows left out do not repeat. The delete-a-group jackknife
uses the spread of the distance when each group is left out; the excess grows by N / (N - N / groups) in all of them
alike and does not change the spread. Its standard error is right where the two distributions differ, and up to 1.6
times too large where they are the same (tests/core/test_metrics_intervals.py).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from core.metrics.frechet import frechet_distance, frechet_distance_from_features
from core.metrics.moments import FloatArray, Moments, check_features
from core.random import generator

Rows = npt.NDArray[np.intp]


class Interval(NamedTuple):
    """A Fréchet distance and where it would lie for other rows of the same two distributions, at the same N."""

    value: float
    low: float
    high: float
    standard_error: float
    """Of the value; the root of the next two, squared and added."""
    standard_error1: float
    """What the choice of the first set's rows adds."""
    standard_error2: float
    """The second's: all that counts where several sets are held against one first set."""


class Floor(NamedTuple):
    """Fréchet distances between disjoint parts of one set."""

    mean: float
    std: float
    """Standard deviation over the draws, divisor draws - 1; the draws share rows, so it is a little too small."""
    values: FloatArray
    """(draws,)"""


class Limit(NamedTuple):
    """A Fréchet distance extrapolated to infinitely many rows."""

    value: float
    """The intercept; unbiased to first order in 1/N, so it may fall below 0."""
    standard_error: float
    """Of the intercept, under draws of the rows and of the subsets."""
    sizes: npt.NDArray[np.int64]
    """(points,) N."""
    distances: FloatArray
    """(points,) Fréchet distance at each N."""


def _pair(features1: npt.ArrayLike, features2: npt.ArrayLike, least: int) -> tuple[FloatArray, FloatArray]:
    """Both sets, checked."""
    a = check_features(features1, "features1", least=least)
    return a, check_features(features2, "features2", a.shape[1], least=least)


def _moments(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and covariance."""
    moments = Moments(rows.shape[1])
    moments.update(rows)
    return moments.mean, moments.covariance


def _variance(rows: FloatArray, other: FloatArray, groups: list[Rows]) -> float:
    """Jackknife variance of the Fréchet distance that the rows of the first set cause."""
    n, dim = rows.shape
    if min(n, len(other)) < dim:
        values = [frechet_distance_from_features(np.delete(rows, group, axis=0), other) for group in groups]
    else:
        mean, covariance = _moments(rows)
        other_mean, other_covariance = _moments(other)
        values = []
        for group in groups:  # the moments without the group, from those with it
            left, gone = n - len(group), rows[group] - mean
            total = gone.sum(axis=0)
            scatter = (n - 1) * covariance - gone.T @ gone - np.outer(total, total) / left
            values.append(frechet_distance(other_mean, other_covariance, mean - total / left, scatter / (left - 1)))
    count = len(groups)
    return float(np.var(values)) * (count - 1)


def _variances(a: FloatArray, b: FloatArray, groups: int, seed: int) -> tuple[float, float]:
    """Jackknife variances from the first and from the second set."""
    most = min(len(a), len(b)) // 2
    if not 2 <= groups <= most:
        raise ValueError(f"groups = {groups}: must be from 2 to {most}, half the rows of the smaller set")
    cut = [np.array_split(generator(seed, "rows", draw).permutation(len(x)), groups) for draw, x in enumerate((a, b))]
    return _variance(a, b, cut[0]), _variance(b, a, cut[1])


def frechet_interval(
    features1: npt.ArrayLike, features2: npt.ArrayLike, groups: int = 10, level: float = 0.95, seed: int = 0
) -> Interval:
    """Fréchet distance of two sets with an interval, by the delete-a-group jackknife.

    It costs 2 groups + 1 distances. The interval is for the distance expected at these numbers of rows, not for its
    limit.

    Args:
        features1: (n, d).
        features2: (m, d).
        groups: number of random groups of each set, each left out once, of two rows or more. More make the standard
            error itself steadier, to about 1 / (2 sqrt(groups)) of it.
        level: share of such intervals that hold the expected distance, in (0, 1).
        seed: of the groups, in [0, 2^64).
    Returns:
        The distance, the ends of the interval (low not below 0) and the standard error with its two parts.
    Raises:
        ValueError: features as `frechet_distance_from_features`; groups, level or seed out of range.
    Source: Wolter 2007, chapter 4 (the jackknife with groups of two independent samples); ends by Student's t with
        Welch's and Satterthwaite's degrees of freedom.
    """
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: must be above 0 and below 1")
    a, b = _pair(features1, features2, least=4)
    value = frechet_distance_from_features(a, b)
    first, second = _variances(a, b, groups, seed)
    variance, squares = first + second, first**2 + second**2
    freedom = (groups - 1) * variance**2 / squares if squares > 0 else np.inf
    error = float(np.sqrt(variance))
    reach = float(scipy.special.stdtrit(freedom, (1 + level) / 2)) * error if error > 0 else 0.0
    ends = max(value - reach, 0.0), value + reach
    return Interval(value, *ends, error, float(np.sqrt(first)), float(np.sqrt(second)))


def frechet_floor(real: npt.ArrayLike, n: int, draws: int = 5, seed: int = 0, other: int | None = None) -> Floor:
    """Fréchet distance of real images to other real images at N = n: the best that a generated set can reach.

    Args:
        real: (r, d), r >= n + other.
        n: rows of the first set, at least 2; take that of the distance it stands beside.
        draws: how often two disjoint sets of rows are drawn, at least 2.
        seed: of the draws, in [0, 2^64).
        other: rows of the second set, at least 2; None for n.
    Returns:
        Mean, standard deviation and values.
    Raises:
        ValueError: wrong shape, too few rows, a value that is not finite, or an integer out of range.
    """
    other = n if other is None else other
    for name, number in (("n", n), ("draws", draws), ("other", other)):
        if number < 2:
            raise ValueError(f"{name} = {number}: must be at least 2")
    rows = check_features(real, "real", least=n + other)
    values = np.empty(draws)
    for draw in range(draws):
        order = generator(seed, "rows", draw).permutation(len(rows))
        values[draw] = frechet_distance_from_features(rows[order[:n]], rows[order[n : n + other]])
    return Floor(float(values.mean()), float(values.std(ddof=1)), values)


def frechet_infinity(
    features1: npt.ArrayLike,
    features2: npt.ArrayLike,
    smallest: int,
    points: int = 15,
    cut_both: bool = False,
    groups: int = 10,
    seed: int = 0,
) -> Limit:
    """Fréchet distance for infinitely many rows, the intercept of a straight line through distance against 1/N.

    The subsets share rows, so their distances err together, and the line's residuals would understate the error of its
    intercept. To first order the error of a subset's distance is the mean of one function over its rows. The error of
    the intercept is then a sum of that function over rows, whose weights follow from the subsets. The function's
    variance is the jackknife's times the number of rows.

    Args:
        features1: (n, d), the real set.
        features2: (m, d).
        smallest: smallest N, at least 2; the paper has 5,000 of 50,000. The line is straight only where N is a few
            times d; below that the intercept is too large.
        points: number of N, evenly spaced from smallest to m, at least 3.
        cut_both: False keeps the whole first set in every distance, as the paper does; the excess of its n rows then
            stays in the result. True draws N rows of both, up to the smaller set's number.
        groups: of the jackknife, as in `frechet_interval`.
        seed: of the subsets and groups, in [0, 2^64).
    Returns:
        Intercept, standard error, and the points of the line.
    Raises:
        ValueError: features as `frechet_distance_from_features`, or an integer out of range.
    Source: Chong & Forsyth 2020; the standard error is ours.
    """
    a, b = _pair(features1, features2, least=4)
    largest = min(len(a), len(b)) if cut_both else len(b)
    if points < 3:
        raise ValueError(f"points = {points}: must be at least 3")
    most = largest - points + 1
    if not 2 <= smallest <= most:
        raise ValueError(f"smallest = {smallest}: must be from 2 to {most}, to leave {points} sizes up to {largest}")
    first, second = _variances(a, b, groups, seed)
    sizes = np.linspace(smallest, largest, points).astype(np.int64)
    x = 1.0 / sizes - np.mean(1.0 / sizes)
    share = 1.0 / points - np.mean(1.0 / sizes) * x / (x @ x)  # of each point in the intercept
    weights = np.zeros(len(a)), np.zeros(len(b))
    distances = np.empty(points)
    whole = None if cut_both else _moments(a)
    for i, n in enumerate(sizes):
        rng = generator(seed, "rows", 2 + i)
        chosen = rng.permutation(len(b))[:n]
        weights[1][chosen] += share[i] / n
        if whole is None:
            others = rng.permutation(len(a))[:n]
            weights[0][others] += share[i] / n
            distances[i] = frechet_distance_from_features(a[others], b[chosen])
        else:
            distances[i] = frechet_distance(*whole, *_moments(b[chosen]))
    if not cut_both:
        weights[0][:] = 1.0 / len(a)
    # Each variance times its number of rows is that of one row's part.
    variance = first * len(a) * float(weights[0] @ weights[0]) + second * len(b) * float(weights[1] @ weights[1])
    return Limit(float(share @ distances), float(np.sqrt(variance)), sizes, distances)
