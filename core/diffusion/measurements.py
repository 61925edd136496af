"""Linear measurements of images, y = A x + noise: blurred, with fewer pixels, or with pixels missing.

Images are (B, H, W, C) in intensity; every channel is measured alike. Posterior sampling needs A, its adjoint A^T, and
solve(): the residual weighted by the inverse of its covariance A diag(variance) A^T + s^2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TOLERANCE = 1e-8
"""Size of a conjugate gradient's residual, relative to its right side, at which it ends."""
MOST_ITERATIONS = 200


class Measurement(Protocol):
    """A linear operator A on images."""

    @property
    def valid(self) -> Any:
        """1 for a value of y that is measured and 0 for one that is not, broadcast against (h, w, C)."""
        ...

    def forward(self, x: Array) -> Array:
        """A x: images (B, H, W, C) to measurements (B, h, w, C)."""
        ...

    def adjoint(self, y: Array) -> Array:
        """A^T y: measurements (B, h, w, C) to images (B, H, W, C)."""
        ...

    def solve(self, y: Array, variance: Any, noise: float) -> Array:
        """(A diag(variance) A^T + noise^2)^-1 y.

        Args:
            y: (B, h, w, C) residuals, 0 where they are not valid.
            variance: of every pixel: one number, or (B, H, W, C).
            noise: standard deviation of the measurement's noise, above 0.
        """
        ...


@dataclass(frozen=True, eq=False)
class Blur:
    """Convolution with a point spread function (PSF). The image wraps around its edges, so the FFT is exact."""

    psf: Array
    """(H, W) that sums to 1, with its centre at [0, 0]."""
    valid: float = 1.0

    @property
    def transfer(self) -> NDArray[np.complex128]:
        """Fourier transform of the PSF, (H, W // 2 + 1, 1)."""
        transformed: NDArray[np.complex128] = np.fft.rfft2(self.psf)[..., None]
        return transformed

    def _filtered(self, x: Array, factor: NDArray[Any]) -> Array:
        return np.fft.irfft2(np.fft.rfft2(x, axes=(1, 2)) * factor, s=self.psf.shape, axes=(1, 2))

    def forward(self, x: Array) -> Array:
        """The blurred images."""
        return self._filtered(x, self.transfer)

    def adjoint(self, y: Array) -> Array:
        """Convolution with the PSF turned by half a turn."""
        return self._filtered(y, self.transfer.conj())

    def solve(self, y: Array, variance: Any, noise: float) -> Array:
        """By the FFT for one variance; for a variance of each pixel by conjugate gradients."""
        power = np.abs(self.transfer) ** 2
        if np.ndim(variance) == 0:
            return self._filtered(y, 1 / (variance * power + noise**2))
        mean = variance.mean(axis=(1, 2, 3), keepdims=True)
        return conjugate_gradients(
            lambda w: self.forward(variance * self.adjoint(w)) + noise**2 * w,
            lambda w: self._filtered(w, 1 / (mean * power + noise**2)),
            y,
        )


@dataclass(frozen=True)
class Downscale:
    """Means over squares of K x K pixels."""

    factor: int
    valid: float = 1.0

    def forward(self, x: Array) -> Array:
        """The means, (B, H / K, W / K, C)."""
        count, height, width, channels = x.shape
        k = self.factor
        means: Array = x.reshape(count, height // k, k, width // k, k, channels).mean(axis=(2, 4))
        return means

    def adjoint(self, y: Array) -> Array:
        """Each value over K^2, on its square of pixels."""
        return y.repeat(self.factor, axis=1).repeat(self.factor, axis=2) / self.factor**2

    def solve(self, y: Array, variance: Any, noise: float) -> Array:
        """The squares do not overlap, so the covariance is diagonal."""
        of_mean = variance if np.ndim(variance) == 0 else self.forward(variance)
        return y / (of_mean / self.factor**2 + noise**2)


@dataclass(frozen=True, eq=False)
class Mask:
    """Some pixels are measured; the others are 0 in y, and nothing is known of them."""

    known: NDArray[np.bool_]
    """(H, W), True at the pixels that are measured."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """The known pixels, of every channel."""
        return self.known[..., None]

    def forward(self, x: Array) -> Array:
        """The images with 0 at the pixels that are not measured."""
        return np.where(self.valid, x, 0.0)

    def adjoint(self, y: Array) -> Array:
        """As forward()."""
        return self.forward(y)

    def solve(self, y: Array, variance: Any, noise: float) -> Array:
        """Pixel by pixel."""
        return np.asarray(y / (variance + noise**2))


def gaussian_psf(sigma: float, size: tuple[int, int]) -> Array:
    """A Gaussian PSF on a grid that wraps around, with its centre at [0, 0].

    Args:
        sigma: standard deviation in pixels, above 0.
        size: height and width in pixels.
    """
    distances = (np.minimum(np.arange(length), length - np.arange(length)) for length in size)
    rows, columns = (np.exp(-0.5 * (d / sigma) ** 2) for d in distances)
    psf = np.outer(rows, columns)
    return np.asarray(psf / psf.sum())


def centred_psf(psf: Array, size: tuple[int, int]) -> Array:
    """A PSF (h, w) centred at [h // 2, w // 2], put on the images' grid with its centre at [0, 0] and the sum 1."""
    full = np.zeros(size)
    full[: psf.shape[0], : psf.shape[1]] = psf / psf.sum()
    return np.roll(full, (-(psf.shape[0] // 2), -(psf.shape[1] // 2)), axis=(0, 1))


def conjugate_gradients(
    product: Callable[[Array], Array], preconditioner: Callable[[Array], Array], right: Array
) -> Array:
    """The solution of a symmetric positive system for each image of a batch, whatever the others are.

    Args:
        product: the matrix times an array like `right`.
        preconditioner: an approximate inverse of it, symmetric and positive too.
        right: (B, h, w, C) the right sides.
    Source: Hestenes & Stiefel 1952; Shewchuk 1994, section B3 (preconditioned).
    """

    def dot(a: Array, b: Array) -> Array:
        summed: Array = np.sum(a * b, axis=(1, 2, 3), keepdims=True)
        return summed

    x, rest = np.zeros_like(right), right
    direction = better = preconditioner(rest)
    size, limit = dot(rest, better), TOLERANCE**2 * dot(right, right)
    for _ in range(MOST_ITERATIONS):
        going = dot(rest, rest) > limit
        if not going.any():
            break
        moved = product(direction)
        with np.errstate(invalid="ignore", divide="ignore"):
            step = np.where(going, size / dot(direction, moved), 0.0)
        x, rest = x + step * direction, rest - step * moved
        better = preconditioner(rest)
        before, size = size, dot(rest, better)
        with np.errstate(invalid="ignore", divide="ignore"):
            direction = better + np.where(going, size / before, 0.0) * direction
    return x
