"""Images as plain numbers: checks, histograms, thumbnails.

Images are (N, H, W, C), floating point, in [0, 1]. Both sides of every comparison are prepared alike, in float, before
anything is rounded to 8 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from core.metrics.moments import FloatArray

Images = npt.NDArray[np.floating[Any]]
SMALLEST_SIDE = 4
BLOCK = 256  # images checked at a time: a memory-mapped file never enters memory as a whole


def check_images(images: npt.NDArray[Any], name: str = "images") -> None:
    """Raise ValueError where images are not (N, H, W, C) floats in [0, 1].

    Args:
        images: (N, H, W, C), N >= 1, H and W >= 4.
        name: name in messages.
    Raises:
        ValueError: wrong shape or dtype, NaN or infinity, or values out of range (naming the first such image).
    """
    if images.ndim != 4 or 0 in images.shape or min(images.shape[1:3]) < SMALLEST_SIDE:
        hint = "; add the channel axis with images[..., None]" if images.ndim == 3 else ""
        raise ValueError(f"{name}: shape {images.shape}: must be (N, H, W, C), H and W at least {SMALLEST_SIDE}{hint}")
    if images.dtype.kind != "f":
        raise ValueError(
            f"{name}: dtype {images.dtype}: must be float32 or float64 in [0, 1]; divide 8-bit images by 255"
        )
    for start in range(0, len(images), BLOCK):
        block = np.asarray(images[start : start + BLOCK])
        low, high = block.min(axis=(1, 2, 3)), block.max(axis=(1, 2, 3))
        bad = ~((low >= 0) & (high <= 1))  # true for NaN too
        if bad.any():
            i = int(np.argmax(bad))
            what = "NaN or infinity" if not np.isfinite(block[i]).all() else f"values in [{low[i]:.4g}, {high[i]:.4g}]"
            hint = "; map [-1, 1] to [0, 1] with (x + 1) / 2" if -1 <= low[i] < 0 and high[i] <= 1 else ""
            raise ValueError(f"{name}: image {start + i} has {what}: must be finite and in [0, 1]{hint}")


def channel_mean(images: Images) -> FloatArray:
    """(N, H, W) float64 mean over channels, of checked images."""
    check_images(images)
    return np.asarray(images.mean(axis=-1, dtype=np.float64))


def pixel_histograms(images: Images, bins: int) -> FloatArray:
    """Each image's histogram of pixel values.

    Args:
        images: (N, H, W, C) in [0, 1].
        bins: number of equal bins of [0, 1]; the value 1 counts in the last.
    Returns:
        (N, bins) share of each image's pixels; rows sum to 1.
    Raises:
        ValueError: images as `check_images`; bins below 1.
    """
    if bins < 1:
        raise ValueError(f"bins = {bins}: must be at least 1")
    check_images(images)
    n = len(images)
    flat = images.reshape(n, -1)
    index = np.minimum((flat * np.float64(bins)).astype(np.int64), bins - 1) + bins * np.arange(n)[:, None]
    counts = np.bincount(index.ravel(), minlength=n * bins).reshape(n, bins)
    return counts / np.float64(flat.shape[1])


def _area_weights(size: int, target: int) -> FloatArray:
    """(target, size) weights that average equal stretches of a line, pixels cut in proportion."""
    edges = np.arange(target + 1) * (size / target)
    left, right = np.arange(size), np.arange(size) + 1.0
    overlap = np.minimum(edges[1:, None], right) - np.maximum(edges[:-1, None], left)
    return np.asarray(np.maximum(overlap, 0.0) * (target / size))


def thumbnails(images: Images, side: int = 16) -> FloatArray:
    """Area-averaged small images.

    Args:
        images: (N, H, W, C) in [0, 1].
        side: largest height and width of the result in pixels; a smaller side of an image is kept.
    Returns:
        (N, min(H, side), min(W, side), C) float64.
    Raises:
        ValueError: images as `check_images`; side below 1.
    """
    if side < 1:
        raise ValueError(f"side = {side}: must be at least 1")
    check_images(images)
    _, height, width, _ = images.shape
    rows = _area_weights(height, min(height, side))
    columns = _area_weights(width, min(width, side))
    return np.asarray(np.einsum("hi,nijc,wj->nhwc", rows, images, columns, optimize=True))
