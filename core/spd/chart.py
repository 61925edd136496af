"""The log-Euclidean chart: symmetric positive definite matrices (N, m, m) as vectors (N, D) and back.

D = m (m + 1) / 2. The coordinates are z = vec(log X), the upper triangle of log X by rows, off-diagonal values times
sqrt(2). So |z - z'| is the log-Euclidean distance. The chart then whitens them: v = (z - mean) whiten.

Source: Arsigny et al. 2006, log-Euclidean metrics; Li et al. 2023, SPD-DDPM (arXiv 2312.08200), whose sum and scaling
of matrices are the sum and scaling of z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Whiten = Literal["full", "scale"]

LEAST_SHARE = 1e-10
"""Smallest eigenvalue of the coordinates' covariance, as a share of the largest, that full whitening divides by."""


def size_of(coordinates: int) -> int:
    """The m of D = m (m + 1) / 2.

    Raises:
        ValueError: no m has this D.
    """
    m = (math.isqrt(8 * coordinates + 1) - 1) // 2
    if m < 1 or m * (m + 1) // 2 != coordinates:
        raise ValueError(f"{coordinates} coordinates: must be m (m + 1) / 2 for matrices of m x m, such as 3, 6 or 36")
    return m


def _triangle(m: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Array]:
    """Rows and columns of the upper triangle by rows, and the factor of each coordinate: 1 or sqrt(2)."""
    rows, columns = np.triu_indices(m)
    return rows, columns, np.where(rows == columns, 1.0, math.sqrt(2.0))


def vec(symmetric: Array) -> Array:
    """Symmetric matrices (N, m, m) as coordinates (N, D), so that norms are Frobenius norms."""
    rows, columns, factor = _triangle(symmetric.shape[-1])
    return np.asarray(symmetric[:, rows, columns] * factor)


def unvec(z: Array) -> Array:
    """The inverse of vec(): (N, D) -> (N, m, m), exactly symmetric."""
    m = size_of(z.shape[-1])
    rows, columns, factor = _triangle(m)
    symmetric = np.empty((len(z), m, m))
    symmetric[:, rows, columns] = symmetric[:, columns, rows] = z / factor
    return symmetric


def _spectral(symmetric: Array, function: Any) -> Array:
    """A function of symmetric matrices: it acts on their eigenvalues. The result is exactly symmetric."""
    values, vectors = np.linalg.eigh(symmetric)
    result = np.matmul(vectors * function(values)[:, None, :], vectors.transpose(0, 2, 1))
    return np.asarray((result + result.transpose(0, 2, 1)) / 2)


def matrix_log(matrices: Array) -> Array:
    """The logarithm of symmetric positive definite matrices (N, m, m)."""
    return _spectral(matrices, np.log)


def matrix_exp(symmetric: Array) -> Array:
    """The exponential of symmetric matrices (N, m, m); it is positive definite."""
    return _spectral(symmetric, np.exp)


def matrix_power(matrices: Array, exponent: float) -> Array:
    """A real power of symmetric positive definite matrices (N, m, m)."""
    return _spectral(matrices, lambda values: values**exponent)


def coordinates(matrices: Array) -> Array:
    """z = vec(log X): checked matrices (N, m, m) -> (N, D)."""
    return vec(matrix_log(matrices))


def from_coordinates(z: Array) -> Array:
    """X = exp(unvec(z)): (N, D) -> matrices (N, m, m)."""
    return matrix_exp(unvec(z))


@dataclass(frozen=True)
class Chart:
    """The chart of one set of training matrices."""

    kind: Whiten
    """full divides by the root of the coordinates' covariance; scale divides by one standard deviation."""
    mean: Array
    """(D,) mean of z."""
    whiten: Array
    """(D, D), symmetric: v = (z - mean) whiten."""
    unwhiten: Array
    """(D, D), the inverse: z = v unwhiten + mean."""

    @property
    def m(self) -> int:
        """Rows of a matrix."""
        return size_of(len(self.mean))

    def whitened(self, z: Array) -> Array:
        """v of log-Euclidean coordinates z, (N, D)."""
        return np.asarray((z - self.mean) @ self.whiten)

    def encode(self, matrices: Array) -> Array:
        """v of checked matrices: (N, m, m) -> (N, D)."""
        return self.whitened(coordinates(matrices))

    def decode(self, v: npt.ArrayLike) -> Array:
        """The matrices of v: (N, D) -> (N, m, m) float64, exactly symmetric and positive definite."""
        return from_coordinates(np.asarray(v, np.float64) @ self.unwhiten + self.mean)


def fit_chart(z: Array, kind: Whiten = "full") -> Chart:
    """The chart of training matrices: mean and covariance of their coordinates.

    Args:
        z: (N, D) log-Euclidean coordinates of the training matrices alone.
        kind: full makes v's covariance the identity; scale makes its trace D.
    Returns:
        The chart. whiten is the symmetric inverse root, which is unique: no sign or order of eigenvectors is chosen.
    Raises:
        ValueError: too few or too equal matrices for the kind.
    """
    count, size = z.shape
    if kind == "full" and count < size + 1:
        raise ValueError(
            f"whiten = full: {count} training matrices: must be at least {size + 1} for {size} coordinates; give more, "
            "or set whiten = scale"
        )
    centred = z - z.mean(axis=0)
    covariance = centred.T @ centred / count
    if not np.trace(covariance) > 0:
        raise ValueError("the training matrices are all equal: give matrices that differ")
    if kind == "scale":
        deviation = math.sqrt(float(np.trace(covariance)) / size)
        return Chart(kind, z.mean(axis=0), np.eye(size) / deviation, np.eye(size) * deviation)
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < LEAST_SHARE * values[-1]:
        raise ValueError(
            f"whiten = full: the smallest variance of the coordinates is {values[0] / values[-1]:.1g} of the largest: "
            f"must be at least {LEAST_SHARE:g}; set whiten = scale"
        )
    whiten = vectors / np.sqrt(values) @ vectors.T
    unwhiten = vectors * np.sqrt(values) @ vectors.T
    return Chart(kind, z.mean(axis=0), (whiten + whiten.T) / 2, (unwhiten + unwhiten.T) / 2)
