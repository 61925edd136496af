"""Streaming mean and covariance of feature vectors, in float64.

The moments do not depend on how the rows were cut into batches (to rounding), so a Fréchet distance made from them does
not either.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def check_features(
    features: npt.ArrayLike, name: str = "features", dim: int | None = None, least: int = 0
) -> FloatArray:
    """Features as a float64 matrix.

    Args:
        features: (n, d), real, finite.
        name: name in messages.
        dim: the d demanded, where it is known.
        least: the fewest rows allowed.
    Returns:
        (n, d) float64.
    Raises:
        ValueError: not a matrix, not real numbers, another d, too few rows, or a value that is not finite.
    """
    rows = np.asarray(features)
    if rows.ndim != 2 or rows.shape[1] == 0 or (dim is not None and rows.shape[1] != dim):
        wanted = "(n, d)" if dim is None else f"(n, {dim})"
        raise ValueError(f"{name}: shape {rows.shape}: must be {wanted}; flatten each image's features to one row")
    if len(rows) < least:
        raise ValueError(f"{name}: {len(rows)} rows: must be at least {least}")
    if rows.dtype.kind not in "fiub":
        raise ValueError(f"{name}: dtype {rows.dtype}: must be real numbers; convert to float32 or float64")
    rows = rows.astype(np.float64, copy=False)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{name}: row {int(np.argmin(finite))} ({int((~finite).sum())} of {len(rows)} rows) holds NaN or infinity: "
            "must be finite; check the images and the extractor's precision"
        )
    return rows


class Moments:
    """Mean and covariance of rows that arrive in batches.

    Memory is one d x d float64 matrix. Batches of a hundred rows or more run at the speed of one matrix product.

    Source: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", equation 1.5b, for
    covariances. The deviation of the two means enters as one more row of the batch, so that a batch is one in-place
    rank-k update, of the lower triangle alone.
    """

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise ValueError(f"dim = {dim}: must be at least 1")
        self.dim = dim
        self.count = 0
        # The first row: means are kept relative to it, so that large, nearly equal numbers keep their last digits.
        self._origin: FloatArray = np.zeros(dim)
        self._mean: FloatArray = np.zeros(dim)
        self._scatter: FloatArray = np.zeros(
            (dim, dim), order="F"
        )  # lower triangle of the sum of (x - mean)(x - mean)^T

    def update(self, features: npt.ArrayLike) -> None:
        """Add a batch.

        Args:
            features: (n, d), real, finite; n may be 0.
        Raises:
            ValueError: wrong shape, wrong dtype or a value that is not finite; the moments are then unchanged.
        """
        from scipy.linalg.blas import dsyrk  # late: few commands need SciPy

        rows = check_features(features, dim=self.dim)
        n = len(rows)
        if n == 0:
            return
        if self.count == 0:
            self._origin = rows[0].copy()
        total = self.count + n
        block = np.empty((n + 1, self.dim))
        np.subtract(rows, self._origin, out=block[:n])
        batch_mean = block[:n].mean(axis=0)
        block[:n] -= batch_mean
        delta = batch_mean - self._mean
        block[n] = np.sqrt(self.count * n / total) * delta
        self._scatter = dsyrk(1.0, block.T, beta=1.0, c=self._scatter, lower=1, overwrite_c=1)
        self._mean += delta * (n / total)
        self.count = total

    def merge(self, other: Moments) -> None:
        """Add what another accumulator has seen; the other is unchanged.

        Raises:
            ValueError: another feature dimension.
        """
        if other.dim != self.dim:
            raise ValueError(f"other.dim = {other.dim}: must be {self.dim}; merge moments of the same features only")
        if other.count == 0:
            return
        if self.count == 0:
            self._origin = other._origin.copy()
        total = self.count + other.count
        delta = (other._origin - self._origin) + other._mean - self._mean
        self._scatter += other._scatter
        self._scatter += np.tril(np.outer(delta, delta)) * (self.count * other.count / total)
        self._mean += delta * (other.count / total)
        self.count = total

    @property
    def mean(self) -> FloatArray:
        """(d,) mean of all rows; ValueError where there is none."""
        if self.count < 1:
            raise ValueError("count = 0: a mean needs at least 1 row; call update first")
        return self._origin + self._mean

    @property
    def covariance(self) -> FloatArray:
        """(d, d) unbiased covariance (divisor count - 1); ValueError below two rows."""
        if self.count < 2:
            raise ValueError(f"count = {self.count}: a covariance needs at least 2 rows; add more features")
        lower: FloatArray = np.tril(self._scatter) / (self.count - 1)
        return np.ascontiguousarray(lower + np.tril(lower, -1).T)


def moments_of(batches: Iterable[npt.ArrayLike]) -> Moments:
    """Moments of an iterable of (n_i, d) batches.

    Raises:
        ValueError: no batch at all, or a batch that `Moments.update` refuses.
    """
    moments: Moments | None = None
    for batch in batches:
        if moments is None:
            moments = Moments(check_features(batch).shape[1])
        moments.update(batch)
    if moments is None:
        raise ValueError("batches: none given: must be at least 1")
    return moments
