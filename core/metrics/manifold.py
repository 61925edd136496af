"""Fidelity and diversity apart: precision and recall, density and coverage, from balls about the rows of a set.

A set's manifold is the union of the balls about its rows that reach their k-th neighbours. Distances are formed in
blocks of rows by matrix products: 100 MB at a time for ten thousand rows, besides the features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.metrics.moments import FloatArray, check_features

BLOCK = 512  # rows whose distances to all of the other set are held at a time

# Squared distances closer than this share of the two rows' squared norms are equal: it is far above the rounding of a
# matrix product (1e-13 at d = 2048), which would otherwise settle ties such as a row and its copy, and far below any
# difference between distances of features that came from float32 (1e-7).
TIE = 1e-10


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]."""

    precision: float
    """Of generated rows that lie on the real manifold: fidelity."""
    recall: float
    """Of real rows that lie on the generated manifold: diversity."""


class DensityCoverage(NamedTuple):
    """Like precision and recall, both from the real manifold alone, and robust to single outliers."""

    density: float
    """Real balls that a generated row lies in, over k, on average: fidelity; about 1 for real rows, may exceed it."""
    coverage: float
    """Share of real balls that hold a generated row: diversity, in [0, 1]."""


def _check(real: npt.ArrayLike, generated: npt.ArrayLike, k: int, least: int) -> tuple[FloatArray, FloatArray]:
    """Both sets, checked, about the real set's mean, so that norms and with them the rounding are small."""
    if k < 1:
        raise ValueError(f"k = {k}: must be at least 1")
    x = check_features(real, "real", least=k + 1)
    y = check_features(generated, "generated", x.shape[1], least=least)
    centre = x.mean(axis=0)
    return x - centre, y - centre


def _products(queries: FloatArray, points: FloatArray) -> Iterator[tuple[slice, FloatArray]]:
    """Blocks of query rows: which, and their inner products with all points, (b, m), for the caller to overwrite."""
    for start in range(0, len(queries), BLOCK):
        part = slice(start, start + BLOCK)
        yield part, queries[part] @ points.T


def _norms(rows: FloatArray) -> FloatArray:
    """(n,) squared norms."""
    return np.asarray(np.einsum("nd,nd->n", rows, rows))


def _radii(points: FloatArray, k: int) -> FloatArray:
    """(n,) squared distance of every row to its k-th nearest other row."""
    norms, radii = _norms(points), np.empty(len(points))
    for part, squared in _products(points, points):
        squared *= -2.0
        squared += norms
        squared[np.arange(len(squared)), np.arange(part.start, part.start + len(squared))] = np.inf  # itself
        squared.partition(k - 1, axis=1)
        radii[part] = squared[:, k - 1] + norms[part]
    return np.maximum(radii, 0.0)


def _inside(queries: FloatArray, points: FloatArray, k: int, closed: bool) -> Iterator[npt.NDArray[np.bool_]]:
    """Blocks (b, m): whether a query lies in the ball about a point, its sphere included where it is closed.

    |q - p|^2 <= r + tie (|q|^2 + |p|^2) is q.p - ((1 - tie) |p|^2 - r) / 2 >= (1 - tie) |q|^2 / 2: two passes over a
    block instead of eight. Of an open ball ties are out: the other sign, and the strict inequality.
    """
    share = 1.0 - TIE if closed else 1.0 + TIE
    of_points, of_queries = (share * _norms(points) - _radii(points, k)) / 2, share * _norms(queries) / 2
    for part, product in _products(queries, points):
        product -= of_points
        least = of_queries[part, None]
        yield product >= least if closed else product > least


def precision_recall(real: npt.ArrayLike, generated: npt.ArrayLike, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall.

    Args:
        real: (n, d), n > k.
        generated: (m, d), m > k; both depend on n and m, so compare only values of the same sizes.
        k: the neighbour that a ball reaches, itself not counted; 3 in the paper.
    Returns:
        Precision and recall; a row on a sphere is inside, as in the authors' code.
    Raises:
        ValueError: wrong shape, too few rows, another d, a value that is not finite, or k below 1.
    Source: Kynkaanniemi et al. 2019, equations 1 and 2.
    """
    x, y = _check(real, generated, k, least=k + 1)
    precision = sum(int(inside.any(axis=1).sum()) for inside in _inside(y, x, k, closed=True)) / len(y)
    recall = sum(int(inside.any(axis=1).sum()) for inside in _inside(x, y, k, closed=True)) / len(x)
    return PrecisionRecall(precision, recall)


def density_coverage(real: npt.ArrayLike, generated: npt.ArrayLike, k: int = 5) -> DensityCoverage:
    """Density and coverage.

    For two sets of n rows each from one distribution coverage is 1 - (1/2)^k on average as n grows, whatever it is.

    Args:
        real: (n, d), n > k.
        generated: (m, d), m >= 1.
        k: the neighbour that a ball reaches, itself not counted; 5 in the paper.
    Returns:
        Density and coverage; a row on a sphere is outside, as in the authors' code, which makes the density of the real
        set itself 1.
    Raises:
        ValueError: wrong shape, too few rows, another d, a value that is not finite, or k below 1.
    Source: Naeem et al. 2020, section 3.
    """
    x, y = _check(real, generated, k, least=1)
    covered = np.zeros(len(x), bool)
    balls = 0
    for inside in _inside(y, x, k, closed=False):
        balls += int(inside.sum())
        covered |= inside.any(axis=0)
    return DensityCoverage(balls / (k * len(y)), float(covered.mean()))
