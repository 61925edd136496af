"""Fidelity and diversity apart: precision and recall, density and coverage, from balls about the rows of a set.

Imports NumPy only. A set's manifold is the union of the balls about its rows that reach their k-th neighbours. Distances
are formed in blocks of rows by matrix products: 210 MB at a time for ten thousand rows, beside the features.
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


def _blocks(queries: FloatArray, points: FloatArray) -> Iterator[tuple[slice, FloatArray, FloatArray]]:
    """Blocks of query rows: which, their squared distances to all points (b, m), and what counts as a tie (b, m)."""
    norms = np.einsum("md,md->m", points, points)
    for start in range(0, len(queries), BLOCK):
        part = slice(start, start + BLOCK)
        rows = queries[part]
        scale = np.einsum("nd,nd->n", rows, rows)[:, None] + norms
        yield part, scale - 2.0 * (rows @ points.T), TIE * scale


def _radii(points: FloatArray, k: int) -> FloatArray:
    """(n,) squared distance of every row to its k-th nearest other row."""
    radii = np.empty(len(points))
    for part, squared, _ in _blocks(points, points):
        squared[np.arange(len(squared)), np.arange(part.start, part.start + len(squared))] = np.inf  # itself
        radii[part] = np.partition(squared, k - 1, axis=1)[:, k - 1]
    return np.maximum(radii, 0.0)


def _share_inside(queries: FloatArray, points: FloatArray, k: int) -> float:
    """Share of queries in at least one ball about the points, spheres included."""
    radii = _radii(points, k)
    inside = [(squared <= radii + tie).any(axis=1).sum() for _, squared, tie in _blocks(queries, points)]
    return float(sum(inside)) / len(queries)


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
    return PrecisionRecall(_share_inside(y, x, k), _share_inside(x, y, k))


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
    radii = _radii(x, k)
    covered = np.zeros(len(x), bool)
    balls = 0
    for _, squared, tie in _blocks(y, x):
        inside = squared < radii - tie
        balls += int(inside.sum())
        covered |= inside.any(axis=0)
    return DensityCoverage(balls / (k * len(y)), float(covered.mean()))
