"""Pixels as numbers: scaled to [0, 1], fitted to the size of a network, and fingerprinted."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from core.data.formats import Image
from core.images import resize

UNIT = (0.0, 1.0)
"""Range of pixel values, as integers divided by their type's maximum have it."""
AROUND_UNIT = (-1.0, 2.0)
"""Range of pixel values that hold noise: an image beside another may be darker than 0 or brighter than 1."""
SIZES = {"data.fit =": "model.sample_size", "data.beside_fit =": "data.beside_size"}
"""The key that sets the size, by the option that brings images to it."""


def to_float(image: Image) -> npt.NDArray[np.float64]:
    """Integers divided by their type's maximum; real values as they are; float64."""
    if image.dtype.kind in "iu":
        return image / np.iinfo(image.dtype).max
    return image.astype(np.float64)


def fit(
    image: npt.NDArray[np.float64],
    size: tuple[int, int],
    how: str,
    name: str,
    option: str = "data.fit =",
    bounds: tuple[float, float] = UNIT,
) -> npt.NDArray[np.float64]:
    """One image (H, W, C) brought to (height, width).

    Args:
        image: in `bounds`.
        size: height and width in pixels.
        how: exact, resize (antialiased bicubic, clipped to `bounds`), crop (centre) or pad (zeros); see DataConfig.fit.
        name: for messages.
        option: names `how` to the user, for messages.
        bounds: smallest and largest pixel value.
    Raises:
        ValueError: exact and another size, crop of a smaller or pad of a larger image.
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    rows, columns = size[0] - height, size[1] - width
    if how == "resize":
        return np.clip(resize(image, *size), *bounds)
    if how == "crop" and rows <= 0 and columns <= 0:
        top, left = -rows // 2, -columns // 2
        return image[top : top + size[0], left : left + size[1]]
    if how == "pad" and rows >= 0 and columns >= 0:
        return np.pad(image, ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)))
    fits = ["resize"] + ["crop"] * (rows <= 0 and columns <= 0) + ["pad"] * (rows >= 0 and columns >= 0)
    raise ValueError(
        f"{name}: {height}x{width} pixels where {size[0]}x{size[1]} are needed, and {option} {how!r}; "
        f"use {option} {' or '.join(fits)}{f', or set {SIZES[option]}' if option in SIZES else ''}"
    )


def scale(
    image: Image, name: str, normalise: str, low: float, high: float, bounds: tuple[float, float] = UNIT
) -> npt.NDArray[np.float64]:
    """Values in `bounds`, before fitting; `low` and `high` become 0 and 1 where normalise is dataset."""
    if normalise == "none":
        if image.dtype.kind == "i" and image.min() < 0:
            raise ValueError(f"{name}: negative integers ({image.min()}); use data.normalise = image or dataset")
        values = to_float(image)
        if values.min() < bounds[0] or values.max() > bounds[1]:
            raise ValueError(
                f"{name}: values from {values.min():.6g} to {values.max():.6g} where data.normalise = 'none' needs "
                f"[{bounds[0]:g}, {bounds[1]:g}]; use data.normalise = dataset or image"
            )
        return values
    values = image.astype(np.float64)
    if normalise == "image":
        low, high = float(values.min()), float(values.max())
    if high <= low:
        raise ValueError(f"{name}: every value is {low:.6g}, which min-max cannot stretch; remove it")
    return (values - low) / (high - low)


def fingerprint(image: Image) -> bytes:
    """SHA-256 of the decoded pixels, before any preparation."""
    head = f"{image.shape}{image.dtype.newbyteorder('<').str}".encode()
    plain = np.ascontiguousarray(image, image.dtype.newbyteorder("<"))
    return hashlib.sha256(head + plain.tobytes()).digest()
