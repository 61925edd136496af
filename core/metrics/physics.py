"""What an astronomer measures on a lens image: ring radius, ellipticity, flux, peak, sky noise.

Every function takes (N, H, W, C) images in [0, 1] and returns one number an image, measured on the mean over channels.
The signal is what rises above the sky. The median of the border frame is subtracted, and pixels below three standard
deviations of the sky noise are left out, since far from the centre noise would dominate the second moments. An image in
which nothing rises above the sky has no ring and no shape: its value is NaN, which the caller counts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core.metrics.moments import FloatArray
from core.metrics.pixels import Images, channel_mean
from core.metrics.profiles import radial_profile

BORDER_SHARE = 0.1
SIGNAL_SIGMAS = 3.0
# Standard deviation of a Gaussian over its median absolute deviation, 1 / Phi^-1(3/4).
MAD_TO_STD = 1.482602218505602


def _border(gray: FloatArray) -> FloatArray:
    """(N, P) pixels of the frame a tenth of the shorter side wide."""
    _, height, width = gray.shape
    frame = max(1, round(BORDER_SHARE * min(height, width)))
    mask: npt.NDArray[np.bool_] = np.ones((height, width), bool)
    mask[frame:-frame, frame:-frame] = False
    return gray[:, mask]


def _sky(gray: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(N,) level and (N,) standard deviation of the sky."""
    border = _border(gray)
    level = np.median(border, axis=1)
    return level, MAD_TO_STD * np.median(np.abs(border - level[:, None]), axis=1)


def _signal(gray: FloatArray) -> FloatArray:
    """(N, H, W) intensity above the sky, 0 where it is lost in the noise."""
    level, noise = _sky(gray)
    above = gray - level[:, None, None]
    return np.where(above > SIGNAL_SIGMAS * noise[:, None, None], above, 0.0)


def total_flux(images: Images) -> FloatArray:
    """Sum over pixels, in intensity times pixels.

    Args:
        images: (N, H, W, C) in [0, 1].
    Returns:
        (N,) float64 in [0, H W].
    Raises:
        ValueError: images as `check_images`.
    """
    return np.asarray(channel_mean(images).sum(axis=(1, 2)))


def peak(images: Images) -> FloatArray:
    """Largest pixel, in units of intensity.

    Args:
        images: (N, H, W, C) in [0, 1].
    Returns:
        (N,) float64 in [0, 1].
    Raises:
        ValueError: images as `check_images`.
    """
    return np.asarray(channel_mean(images).max(axis=(1, 2)))


def sky_noise(images: Images) -> FloatArray:
    """Robust standard deviation of the border frame: 1.4826 times the median absolute deviation from the median.

    Args:
        images: (N, H, W, C) in [0, 1]; the frame is a tenth of the shorter side wide.
    Returns:
        (N,) float64, in units of intensity.
    Raises:
        ValueError: images as `check_images`.
    Source: Rousseeuw & Croux 1993, section 1.
    """
    return _sky(channel_mean(images))[1]


def ring_radius(images: Images, pixel_scale: float = 1.0) -> FloatArray:
    """Radius at which the azimuthally averaged profile about the image's centre is largest.

    The vertex of the parabola through the largest ring and its two neighbours gives the fraction of a pixel.

    Args:
        images: (N, H, W, C) in [0, 1].
        pixel_scale: arcsec per pixel; 1 leaves radii in pixels.
    Returns:
        (N,) float64, in pixels or arcsec; NaN where nothing rises above the sky.
    Raises:
        ValueError: images as `check_images`; pixel_scale not above 0.
    """
    radius, profile = radial_profile(images, pixel_scale)
    top = profile.argmax(axis=1)
    result = radius[top]
    if len(radius) >= 3:
        inner = np.flatnonzero((top > 0) & (top < len(radius) - 1))
        t = top[inner]
        left, right = radius[t] - radius[t - 1], radius[t] - radius[t + 1]
        rise, fall = profile[inner, t] - profile[inner, t - 1], profile[inner, t] - profile[inner, t + 1]
        denominator = left * fall - right * rise
        curved = denominator > 0  # 0 on a plateau, whose largest ring stands as it is
        shift = (left**2 * fall - right**2 * rise)[curved] / denominator[curved] / 2
        result[inner[curved]] -= shift
    empty = ~_signal(channel_mean(images)).any(axis=(1, 2))
    return np.where(empty, np.nan, result)


def ellipticity(images: Images) -> FloatArray:
    """Ellipticity (1 - q) / (1 + q) of the light above the sky, q the axis ratio of its second moments.

    Args:
        images: (N, H, W, C) in [0, 1].
    Returns:
        (N,) float64 in [0, 1], 0 for a circle; NaN where nothing rises above the sky.
    Raises:
        ValueError: images as `check_images`.
    Source: Bartelmann & Schneider 2001, equations 4.2 and 4.10, with a threshold as weight.
    """
    light = _signal(channel_mean(images))
    _, height, width = light.shape
    flux = light.sum(axis=(1, 2))
    empty = flux <= 0
    light = light / np.where(empty, 1.0, flux)[:, None, None]
    y, x = np.arange(height, dtype=np.float64), np.arange(width, dtype=np.float64)
    along_y, along_x = light.sum(axis=2), light.sum(axis=1)  # (N, H), (N, W)
    mean_y, mean_x = along_y @ y, along_x @ x
    q_yy, q_xx = along_y @ y**2 - mean_y**2, along_x @ x**2 - mean_x**2
    q_xy = np.einsum("nhw,h,w->n", light, y, x, optimize=True) - mean_y * mean_x
    half_sum, half_difference = (q_xx + q_yy) / 2, np.hypot((q_xx - q_yy) / 2, q_xy)
    major = np.sqrt(np.maximum(half_sum + half_difference, 0.0))
    minor = np.sqrt(np.maximum(half_sum - half_difference, 0.0))
    axes = major + minor  # 0 where all light is in one pixel, a circle as far as the pixels tell
    result = np.where(axes > 0, (major - minor) / np.where(axes > 0, axes, 1.0), 0.0)
    return np.where(empty, np.nan, result)
