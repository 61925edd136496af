"""Metrics of symmetric positive definite matrices, in float64. Squared distances are called squared.

z are log-Euclidean coordinates (N, D) of core.spd.chart, so |z - z'| is the log-Euclidean distance of two matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.metrics.distances import wasserstein
from core.metrics.manifold import density_coverage, precision_recall
from core.metrics.moments import FloatArray
from core.spd.chart import coordinates, fit_chart, from_coordinates, matrix_exp, matrix_log, matrix_power
from core.spd.matrices import log_eigenvalues

Kernel = Callable[[FloatArray, FloatArray], FloatArray]
"""(a, D) and (b, D) coordinates to their (a, b) kernel values."""

TILE = 1024
NEIGHBOURS = 5
MOST_ROWS = 1000
"""Matrices of each set whose neighbours are searched for precision and coverage."""
MOST_STEPS = 100
KARCHER = 1e-10
"""Gradient norm at which the Karcher mean has converged, as a share of the matrices' root mean squared distance."""


def log_euclidean(x: FloatArray, y: FloatArray) -> FloatArray:
    """Log-Euclidean distances of coordinates (a, D) and (b, D): (a, b)."""
    squared = np.einsum("nd,nd->n", x, x)[:, None] + np.einsum("nd,nd->n", y, y) - 2.0 * (x @ y.T)
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


def energy_kernel(x: FloatArray, y: FloatArray) -> FloatArray:
    """-|z - z'|, whose squared maximum mean discrepancy is the energy distance."""
    return -log_euclidean(x, y)


def gaussian_kernel(z: FloatArray) -> Kernel:
    """exp(-|z - z'|^2 / (2 h^2)), where h is the median distance of at most 1,000 of the given matrices."""
    some = z[:MOST_ROWS]
    width = float(np.median(log_euclidean(some, some)[np.triu_indices(len(some), 1)]))
    if width == 0:
        raise ValueError("real: more than half of the matrices are equal: give matrices that differ")
    return lambda x, y: np.asarray(np.exp(-np.square(log_euclidean(x, y)) / (2 * width**2)))


class Discrepancies(NamedTuple):
    """Squared discrepancies over K ways to halve the real set, (K,) each."""

    floor: FloatArray
    """Between the two halves."""
    others: dict[str, FloatArray]
    """Between the first half and each other set, by the set's name."""


def discrepancies(
    real: FloatArray, halves: npt.NDArray[np.bool_], others: Mapping[str, FloatArray], kernel: Kernel
) -> Discrepancies:
    """Unbiased squared discrepancies E k(x, x') + E k(y, y') - 2 E k(x, y), for all ways to halve at once.

    Args:
        real: (N, D) coordinates.
        halves: (N, K) whether a matrix is in the first half.
        others: sets (M, D), M at least 2.
        kernel: energy_kernel for the energy distance, gaussian_kernel() for MMD^2.
    Source: Szekely & Rizzo 2013 (energy distance); Gretton et al. 2012, equation 3 (MMD^2).
    """
    first = halves.astype(np.float64)
    second = 1.0 - first
    n, m = first.sum(axis=0), second.sum(axis=0)
    aa, bb, ab = (np.zeros(halves.shape[1]) for _ in range(3))
    for rows in _tiles(len(real)):
        to_first, to_second = np.hsplit(_row_sums(real, rows, None, np.hstack([first, second]), kernel), 2)
        aa += np.sum(first[rows] * to_first, axis=0)
        bb += np.sum(second[rows] * to_second, axis=0)
        ab += np.sum(first[rows] * to_second, axis=0)
    of_first = aa / (n * (n - 1))
    found = {}
    for name, other in others.items():
        ones, within, across = np.ones((len(other), 1)), 0.0, np.zeros(len(n))
        for rows in _tiles(len(other)):
            within += float(_row_sums(other, rows, None, ones, kernel).sum())
            across += _row_sums(other, rows, real, first, kernel).sum(axis=0)
        pairs = len(other) * (len(other) - 1)
        found[name] = of_first + within / pairs - 2.0 * across / (n * len(other))
    return Discrepancies(of_first + bb / (m * (m - 1)) - 2.0 * ab / (n * m), found)


def _tiles(count: int) -> list[slice]:
    """Slices of TILE rows."""
    return [slice(start, min(start + TILE, count)) for start in range(0, count, TILE)]


def _row_sums(x: FloatArray, rows: slice, y: FloatArray | None, weights: FloatArray, kernel: Kernel) -> FloatArray:
    """(rows, K) sums over y of the kernel times each column of weights; None for y takes the other rows of x."""
    sums = np.zeros((rows.stop - rows.start, weights.shape[1]))
    for columns in _tiles(len(weights)):
        tile = kernel(x[rows], (x if y is None else y)[columns])
        if y is None and rows == columns:
            np.fill_diagonal(tile, 0.0)
        sums += tile @ weights[columns]
    return sums


class KarcherMean(NamedTuple):
    """The Fréchet mean in the affine-invariant distance."""

    mean: FloatArray
    """(m, m)."""
    gradient_norm: float
    """Norm of the mean of log(M^-1/2 X M^-1/2), which is 0 at the mean."""


def karcher_mean(matrices: FloatArray) -> KarcherMean:
    """The matrix M of least mean squared affine-invariant distance, from the log-Euclidean mean on.

    Args:
        matrices: (N, m, m) symmetric positive definite.
    Source: Pennec et al. 2006, section 3.7; the step is halved where the gradient's norm does not fall.
    """
    mean, step = from_coordinates(coordinates(matrices).mean(axis=0)[None]), 1.0
    gradient, spread = _karcher_gradient(mean, matrices)
    for _ in range(MOST_STEPS):
        norm = float(np.linalg.norm(gradient))
        if norm <= KARCHER * spread:
            break
        root = matrix_power(mean, 0.5)
        moved = root @ matrix_exp(step * gradient) @ root
        moved = (moved + moved.transpose(0, 2, 1)) / 2
        changed, _ = _karcher_gradient(moved, matrices)
        if float(np.linalg.norm(changed)) < norm:
            mean, gradient = moved, changed
        else:
            step /= 2
    return KarcherMean(mean[0], float(np.linalg.norm(gradient)))


def _karcher_gradient(mean: FloatArray, matrices: FloatArray) -> tuple[FloatArray, float]:
    """Mean of log(M^-1/2 X M^-1/2), (1, m, m), and the root mean squared distance from M."""
    root = matrix_power(mean, -0.5)
    logs = matrix_log(root @ matrices @ root)
    return logs.mean(axis=0, keepdims=True), float(np.sqrt(np.square(logs).sum(axis=(1, 2)).mean()))


def affine_squared(a: FloatArray, b: FloatArray) -> FloatArray:
    """Squared affine-invariant distances of matrices (N, m, m): the sum of squared logs of A^-1 B's eigenvalues."""
    root = matrix_power(a, -0.5)
    moved = root @ b @ root
    return np.asarray(np.square(log_eigenvalues((moved + moved.transpose(0, 2, 1)) / 2)).sum(axis=1))


class Sample(NamedTuple):
    """What the metrics of one set of matrices are made of."""

    z: FloatArray
    """(N, D) log-Euclidean coordinates."""
    logs: FloatArray
    """(N, m) log-eigenvalues, ascending."""
    karcher: FloatArray
    """(m, m) Karcher mean."""


def sample_of(matrices: FloatArray) -> Sample:
    """Coordinates, log-eigenvalues and Karcher mean of positive definite matrices (N, m, m)."""
    return Sample(coordinates(matrices), log_eigenvalues(matrices), karcher_mean(matrices).mean)


def total_log_variance(z: FloatArray) -> float:
    """Sum of the variances of the log-Euclidean coordinates: the mean squared distance from their mean."""
    return float(np.var(z, axis=0, ddof=1).sum())


def compare(real: Sample, generated: Sample) -> dict[str, float]:
    """Metrics of two sets besides the discrepancies, by name.

    Returns:
        mean_squared and karcher_squared, squared distances of the two Fréchet means; log_variance_ratio, generated /
        real; wasserstein_1 to wasserstein_m of the ordered log-eigenvalues; precision and coverage of at most 1,000
        matrices each, with 5 neighbours, in coordinates that the real set whitens.
    """
    found = {
        "mean_squared": float(np.square(real.z.mean(axis=0) - generated.z.mean(axis=0)).sum()),
        "karcher_squared": float(affine_squared(real.karcher[None], generated.karcher[None])[0]),
        "log_variance_ratio": total_log_variance(generated.z) / total_log_variance(real.z),
    }
    pairs = zip(real.logs.T, generated.logs.T, strict=True)
    found |= {f"wasserstein_{i}": wasserstein(a, b) for i, (a, b) in enumerate(pairs, 1)}
    size = real.z.shape[1]
    chart = fit_chart(real.z, "full" if len(real.z) > 10 * size else "scale")
    a, b = (chart.whitened(sample.z[:MOST_ROWS]) for sample in (real, generated))
    found["precision"] = precision_recall(a, b, NEIGHBOURS).precision
    found["coverage"] = density_coverage(a, b, NEIGHBOURS).coverage
    return found
