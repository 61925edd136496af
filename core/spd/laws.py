"""Simulated laws of symmetric positive definite matrices, `simulate:spd-NAME`.

Matrix i of a seed is a pure function of (law, m, seed, i): it does not depend on how many matrices are made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from core.random import generator
from core.reading import check_memory
from core.spd.chart import Array, from_coordinates, matrix_log, matrix_power, vec

PREFIX = "simulate:spd-"
DEFAULT_M = {"lognormal": 3, "mixture": 3, "regression": 3, "paper": 8}
"""The laws, and the m of each where none is given."""
LAW_SEED = 2312_08200
"""Seed of what is fixed in a law, such as the coefficients of the regression. It is no seed of the matrices."""
SHARE = 0.6
"""Share of the mixture's first component."""
PAPER_SIGMA = 0.4
PAPER_CONDITION = 100.0
SWEEPS = 300
"""Metropolis steps of each matrix's eigenvalues; the chain starts at well-separated ones."""


class Drawn(NamedTuple):
    """Matrices of a law, and the covariates of each by name."""

    values: Array
    parameters: dict[str, Array]


def law_of(source: str) -> str:
    """The law that `simulate:spd-NAME` names.

    Raises:
        ValueError: no such law.
    """
    law = source.removeprefix(PREFIX)
    if law not in DEFAULT_M:
        raise ValueError(f"{source}: must be one of {', '.join(PREFIX + name for name in DEFAULT_M)}")
    return law


def _normals(seed: int, rows: range, shape: tuple[int, ...], step: int = 0) -> Array:
    """(N, *shape) standard normal, one keyed draw a matrix."""
    found = np.empty((len(rows), *shape))
    for values, row in zip(found, rows, strict=True):
        values[...] = generator(seed, "spd", row, step).standard_normal(shape)
    return found


def _uniforms(seed: int, rows: range, shape: tuple[int, ...], step: int) -> Array:
    """(N, *shape) uniform in [0, 1), one keyed draw a matrix."""
    return np.stack([generator(seed, "spd", row, step).random(shape) for row in rows])


def rotations(normals: Array) -> Array:
    """Haar-distributed orthogonal matrices of standard normal ones, (N, m, m).

    Source: Mezzadri 2007: QR with the signs of R's diagonal moved into Q.
    """
    q, r = np.linalg.qr(normals)
    return np.asarray(q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :])


def _rotated(logs: Array, turn: int) -> Array:
    """The fixed matrix with these log-eigenvalues, (m, m); `turn` chooses its rotation."""
    m = len(logs)
    q = rotations(_normals(LAW_SEED, range(turn, turn + 1), (m, m)))[0]
    return np.asarray(q * np.exp(logs) @ q.T)


def lognormal_moments(m: int) -> tuple[Array, Array]:
    """Mean (D,) and covariance (D, D) of the coordinates of the log-normal law; its variances are 0.2 to 1.8."""
    size = m * (m + 1) // 2
    mean = vec(matrix_log(_rotated(np.linspace(0.7, -0.7, m), 10)[None]))[0]
    q = rotations(_normals(LAW_SEED, range(11, 12), (size, size)))[0]
    return mean, np.asarray(q * np.linspace(0.2, 1.8, size) @ q.T)


def _lognormal(m: int, seed: int, rows: range) -> Drawn:
    """z is Gaussian: the law that an untrained network draws exactly after full whitening."""
    mean, covariance = lognormal_moments(m)
    noise = _normals(seed, rows, mean.shape)
    return Drawn(from_coordinates(noise @ np.linalg.cholesky(covariance).T + mean), {})


def _mixture(m: int, seed: int, rows: range) -> Drawn:
    """0.6 of Wishart(2m) / 2m and 0.4 of Wishart(6m + 2) / (6m + 2), about two rotated diagonals."""
    parts = ((2 * m, _rotated(np.linspace(1.4, -1.4, m), 20)), (6 * m + 2, _rotated(np.linspace(1.0, -1.0, m), 21)))
    first = _uniforms(seed, rows, (), 1) < SHARE
    values = np.empty((len(rows), m, m))
    for chosen, (freedom, centre) in zip((first, ~first), parts, strict=True):
        normals = np.linalg.cholesky(centre) @ _normals(seed, rows, (m, 6 * m + 2))[chosen][:, :, :freedom]
        values[chosen] = normals @ normals.transpose(0, 2, 1) / freedom
    return Drawn((values + values.transpose(0, 2, 1)) / 2, {})


@lru_cache(maxsize=8)
def _coefficients(m: int) -> tuple[Array, Array, Array]:
    """The coordinates of B0, B1 and B2, (D,), of norms 1, 2.5 and 1."""
    normals = _normals(LAW_SEED, range(30, 33), (m * (m + 1) // 2,))
    b0, b1, b2 = normals / np.linalg.norm(normals, axis=1)[:, None] * np.array([[1.0], [2.5], [1.0]])
    return b0, b1, b2


def regression_moments(y: Array, m: int) -> tuple[Array, Array]:
    """Mean (N, D) of z given covariates y (N, 2), and its standard deviation (N,) in every coordinate."""
    b0, b1, b2 = _coefficients(m)
    mean = b0 + y[:, :1] * b1 + np.sin(2 * y[:, 1:]) * b2
    return mean, 0.2 + 0.2 * np.abs(y[:, 0])


def _regression(m: int, seed: int, rows: range) -> Drawn:
    """log X = B0 + y1 B1 + sin(2 y2) B2 + (0.2 + 0.2 |y1|) noise; y is uniform in [-1.5, 1.5]^2."""
    y = 3 * _uniforms(seed, rows, (2,), 1) - 1.5
    mean, deviation = regression_moments(y, m)
    values = from_coordinates(mean + deviation[:, None] * _normals(seed, rows, mean.shape[1:]))
    return Drawn(values, {"y1": y[:, 0], "y2": y[:, 1]})


def riemannian_gaussian_logs(m: int, sigma: float, seed: int, rows: range) -> Array:
    """(N, m) log-eigenvalues of the Riemannian Gaussian about the identity, by Metropolis steps.

    Their density is proportional to exp(-|r|^2 / (2 sigma^2)) times the product of sinh(|r_i - r_j| / 2) over i < j.

    Source: Said et al. 2017, Riemannian Gaussian distributions, equations 12 and 13.
    """
    i, j = np.triu_indices(m, 1)

    def log_density(r: Array) -> Array:
        gaps = np.sinh(np.abs(r[:, i] - r[:, j]) / 2)
        return np.asarray(-np.square(r).sum(axis=1) / (2 * sigma**2) + np.log(gaps + 1e-300).sum(axis=1))

    steps, accept = np.empty((len(rows), SWEEPS, m)), np.empty((len(rows), SWEEPS))
    for row, step, chance in zip(rows, steps, accept, strict=True):
        rng = generator(seed, "spd", row, 2)
        step[...], chance[...] = rng.standard_normal((SWEEPS, m)), rng.random(SWEEPS)
    # Repulsion makes the eigenvalues' mean spread about sigma^2 m / 2 wide for large m: the chain starts there.
    r = np.tile(np.linspace(-1, 1, m) * (sigma + sigma**2 * (m - 1) / 2), (len(rows), 1))
    density = log_density(r)
    for sweep in range(SWEEPS):
        moved = r + steps[:, sweep] * (1.2 * sigma / math.sqrt(m))
        other = log_density(moved)
        taken = np.log(accept[:, sweep] + 1e-300) < other - density
        r[taken], density[taken] = moved[taken], other[taken]
    return r


def paper_centre(m: int) -> Array:
    """M of the paper's law, with a condition of 100: the published one, of 5.6e8, is not exact in float32."""
    return _rotated(np.linspace(0.5, -0.5, m) * math.log(PAPER_CONDITION), 40)


def _paper(m: int, seed: int, rows: range) -> Drawn:
    """M^1/2 S M^1/2, S a Riemannian Gaussian about the identity with sigma 0.4."""
    logs = riemannian_gaussian_logs(m, PAPER_SIGMA, seed, rows)
    q = rotations(_normals(seed, rows, (m, m)))
    root = matrix_power(paper_centre(m)[None], 0.5)[0]
    values = root @ (q * np.exp(logs)[:, None, :] @ q.transpose(0, 2, 1)) @ root
    return Drawn((values + values.transpose(0, 2, 1)) / 2, {})


LAWS: dict[str, Callable[[int, int, range], Drawn]] = {
    "lognormal": _lognormal,
    "mixture": _mixture,
    "regression": _regression,
    "paper": _paper,
}


def simulate_spd(law: str, count: int, seed: int = 0, m: int | None = None, first: int = 0) -> Drawn:
    """Matrices of a simulated law.

    Args:
        law: lognormal, mixture, regression or paper.
        count: number of matrices, at least 1.
        seed: in [0, 2^63).
        m: rows of a matrix; None takes the law's own, 3 or 8.
        first: index of the first matrix.
    Returns:
        (N, m, m) float64, and covariates (N,) by name.
    Raises:
        ValueError: no such law, or too many matrices for the memory.
    """
    law_of(PREFIX + law)
    m = DEFAULT_M[law] if m is None else m
    check_memory(f"{count} matrices of {m} x {m}", count * 8 * (SWEEPS * m if law == "paper" else 8 * m * m))
    return LAWS[law](m, seed, range(first, first + count))
