"""Azimuthally averaged curves of an image: radial profile and radial power spectrum.

Height and width may differ. Only complete circles are averaged, so that no direction weighs more than another. Channels
are averaged first.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from core.metrics.moments import FloatArray
from core.metrics.pixels import Images, channel_mean

Curves = tuple[FloatArray, FloatArray]
"""The abscissa (K,), and one curve an image, (N, K)."""


def check_pixel_scale(pixel_scale: float) -> None:
    """Raise ValueError where a pixel scale is not positive and finite."""
    if not 0 < pixel_scale < np.inf:
        raise ValueError(f"pixel_scale = {pixel_scale!r}: must be above 0, in arcsec per pixel (1 for pixels)")


def _ring_means(values: FloatArray, radius: FloatArray, ring: FloatArray, rings: int, weight: FloatArray) -> Curves:
    """Weighted means over rings 0 .. rings - 1 of the radius (rings,) and of values (N, P) as (N, rings)."""
    inside = np.flatnonzero((ring >= 0) & (ring < rings))
    where = ring[inside].astype(np.int64)
    share = weight[inside] / np.bincount(where, weight[inside], rings)[where]
    matrix = csr_matrix((share, (where, inside)), shape=(rings, values.shape[1]))
    return np.asarray(matrix @ radius), np.ascontiguousarray((matrix @ values.T).T)


def radial_profile(images: Images, pixel_scale: float = 1.0) -> Curves:
    """Mean intensity in rings one pixel wide about the image's centre ((H - 1) / 2, (W - 1) / 2).

    Args:
        images: (N, H, W, C) in [0, 1].
        pixel_scale: arcsec per pixel; 1 leaves radii in pixels.
    Returns:
        radius: (R,) mean radius of each ring's pixels, in pixels or arcsec, R = min(H, W) // 2.
        profile: (N, R) intensity.
    Raises:
        ValueError: images as `check_images`; pixel_scale not above 0.
    """
    check_pixel_scale(pixel_scale)
    gray = channel_mean(images)
    n, height, width = gray.shape
    y, x = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    radius = np.hypot(y[:, None], x).ravel()
    radii, profile = _ring_means(
        gray.reshape(n, -1), radius, np.floor(radius), min(height, width) // 2, np.ones_like(radius)
    )
    return radii * pixel_scale, profile


def power_spectrum(images: Images, pixel_scale: float = 1.0) -> Curves:
    """Radial power spectrum |FFT(I - mean I)|^2 / (H W), averaged over rings of spatial frequency.

    White noise of standard deviation s has power s^2 at every frequency (times 1 - 1/(H W), for the subtracted mean).

    Args:
        images: (N, H, W, C) in [0, 1].
        pixel_scale: arcsec per pixel; 1 leaves frequencies in cycles per pixel.
    Returns:
        frequency: (K,) mean frequency of each ring, in cycles per pixel or per arcsec, up to Nyquist;
            K = min(H, W) // 2.
        power: (N, K) intensity squared.
    Raises:
        ValueError: images as `check_images`; pixel_scale not above 0.
    """
    check_pixel_scale(pixel_scale)
    gray = channel_mean(images)
    n, height, width = gray.shape
    spectrum = np.fft.rfft2(gray - gray.mean(axis=(1, 2), keepdims=True))
    power = (spectrum.real**2 + spectrum.imag**2) / (height * width)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    # rfft2 keeps half of the conjugate pairs: its inner columns stand for two.
    weight = np.full(power.shape[1:], 2.0)
    weight[:, 0] = 1.0
    if width % 2 == 0:
        weight[:, -1] = 1.0
    flat, side = frequency.ravel(), min(height, width)
    ring = np.floor(flat * side + 0.5) - 1  # ring j is centred on frequency (j + 1) / side
    frequencies, means = _ring_means(power.reshape(n, -1), flat, ring, side // 2, weight.ravel())
    return frequencies / pixel_scale, means
