"""Fréchet distance between Gaussians, without a matrix square root.

d^2 = |mu_1 - mu_2|^2 + tr(C_1) + tr(C_2) - 2 tr((C_1 C_2)^(1/2)); only the last trace is hard. With any A such that
A A^T = C_1 it is the sum of the roots of the eigenvalues of A^T C_2 A, which is symmetric and positive semi-definite.
So there is no complex root and no added epsilon, and singular covariances need no special case.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy.linalg.lapack import dpotrf, dsygst

from core.metrics.moments import FloatArray, Moments, check_features

# A covariance computed in float32 is off by about 1e-7 of its largest entry; beyond these bounds it is no covariance.
SYMMETRY_TOLERANCE = 1e-5
NEGATIVE_TOLERANCE = 1e-5

TILE = 256  # side of the squares in which a matrix is held against its transpose: both stay in the cache


def _check_gaussian(mu: npt.ArrayLike, cov: npt.ArrayLike, which: str) -> tuple[FloatArray, FloatArray]:
    """Mean and covariance as float64, checked."""
    mean, covariance = np.asarray(mu, np.float64), np.asarray(cov, np.float64)
    if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
        raise ValueError(f"mu{which}, cov{which}: shapes {mean.shape}, {covariance.shape}: must be (d,) and (d, d)")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"mu{which}, cov{which}: NaN or infinity: must be finite; check the features they came from")
    asymmetry = _asymmetry(covariance)
    if asymmetry > SYMMETRY_TOLERANCE * max(covariance.max(initial=0.0), -covariance.min(initial=0.0)):
        raise ValueError(f"cov{which}: not symmetric: must be a covariance matrix; pass np.cov(features, rowvar=False)")
    return mean, covariance if asymmetry == 0 else (covariance + covariance.T) / 2


def _asymmetry(matrix: FloatArray) -> float:
    """Largest |M - M^T|."""
    tiles = [slice(start, start + TILE) for start in range(0, len(matrix), TILE)]
    pairs = ((rows, columns) for i, rows in enumerate(tiles) for columns in tiles[: i + 1])
    return max((float(np.abs(matrix[rows, cols] - matrix[cols, rows].T).max()) for rows, cols in pairs), default=0.0)


def _root_by_eigh(cov: FloatArray, which: str) -> FloatArray:
    """A with A A^T = cov, for a semi-definite covariance."""
    values, vectors = scipy.linalg.eigh(cov)
    if values[0] < -NEGATIVE_TOLERANCE * max(values[-1], -values[0]):
        raise ValueError(
            f"cov{which}: eigenvalue {values[0]:.3g} beside a largest of {values[-1]:.3g}: must be positive "
            "semi-definite; pass np.cov(features, rowvar=False)"
        )
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)), np.float64)


def _trace_of_root(cov1: FloatArray, cov2: FloatArray) -> float:
    """tr((C_1 C_2)^(1/2)): the Cholesky route where either is positive definite, else the eigenvector route."""
    # Transposes, since LAPACK wants columns together: a symmetric matrix is its own, and no copy is made on the way.
    for definite, other in ((cov1, cov2), (cov2, cov1)):
        lower, info = dpotrf(definite.T, lower=1, clean=0)
        if info == 0:
            product, _ = dsygst(other.T, lower, itype=2, lower=1)  # L^T C_2 L, its lower triangle alone
            break
    else:
        root = _root_by_eigh(cov1, "1")
        product = root.T @ cov2 @ root
    values = scipy.linalg.eigvalsh(product, overwrite_a=True, check_finite=False)
    return float(np.sqrt(np.maximum(values, 0.0)).sum())


def frechet_distance(mu1: npt.ArrayLike, cov1: npt.ArrayLike, mu2: npt.ArrayLike, cov2: npt.ArrayLike) -> float:
    """Squared Fréchet (2-Wasserstein) distance between two Gaussians: the quantity called FID on Inception features.

    Args:
        mu1, mu2: (d,) means.
        cov1, cov2: (d, d) covariances, symmetric positive semi-definite, singular allowed.
    Returns:
        The squared distance, in the features' unit squared; never negative.
    Raises:
        ValueError: shapes that do not fit, values that are not finite, or a matrix that is not a covariance.
    Source: Dowson & Landau 1982, equation 16; Heusel et al. 2017, equation 6.
    """
    mean1, c1 = _check_gaussian(mu1, cov1, "1")
    mean2, c2 = _check_gaussian(mu2, cov2, "2")
    if mean1.size != mean2.size:
        raise ValueError(f"mu2: {mean2.size} features: must be {mean1.size} as in mu1; compare the same extractor's")
    delta = mean1 - mean2
    squared = float(delta @ delta + np.trace(c1) + np.trace(c2)) - 2.0 * _trace_of_root(c1, c2)
    return max(squared, 0.0)


def frechet_distance_from_features(features1: npt.ArrayLike, features2: npt.ArrayLike) -> float:
    """Squared Fréchet distance between two sets of features, exact where there are fewer rows than features.

    Args:
        features1: (n1, d), n1 >= 2.
        features2: (n2, d), n2 >= 2.
    Returns:
        The squared distance between the two sets' Gaussians (unbiased covariances), in the features' unit squared.
    Raises:
        ValueError: wrong shape, fewer than two rows, another d, or a value that is not finite.
    Source: as `frechet_distance`; with few rows tr((C_1 C_2)^(1/2)) is the nuclear norm of
    X_1 X_2^T / sqrt((n1 - 1)(n2 - 1)), X_i the centred features, since C_i = X_i^T X_i / (n_i - 1).
    """
    a = check_features(features1, "features1", least=2)
    b = check_features(features2, "features2", a.shape[1], least=2)
    dim = a.shape[1]
    if min(len(a), len(b)) >= dim:
        first, second = Moments(dim), Moments(dim)
        first.update(a)
        second.update(b)
        return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)
    mean1, mean2 = a.mean(axis=0), b.mean(axis=0)
    x1, x2 = (a - mean1) / np.sqrt(len(a) - 1), (b - mean2) / np.sqrt(len(b) - 1)
    traces = float((x1 * x1).sum() + (x2 * x2).sum())
    # X = QR leaves the singular values of X_1 X_2^T as those of X_1 R^T: never more than d columns.
    r1, r2 = (np.asarray(np.linalg.qr(x, mode="r")) if len(x) > dim else x for x in (x1, x2))
    nuclear = float(scipy.linalg.svdvals(r1 @ r2.T, check_finite=False).sum())
    delta = mean1 - mean2
    return max(float(delta @ delta) + traces - 2.0 * nuclear, 0.0)
