"""The habits that the study `protocol` tries, each a change of images, and the bias of a small N in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from core.images import to_uint8
from core.metrics.frechet import frechet_distance_from_features
from core.random import generator
from eval.measure.image_sets import GREY_STEPS, Images
from eval.measure.saved import Features

FEW = 400
"""Images a class in many a paper of this field."""
BATCH = 16
"""Images that are normalised together."""
WIDE = 2048
"""Features of Inception, and so of the random features here."""
POINTS = 2000
"""Nodes of the integral over the spectrum."""


def truncated(images: Images) -> Images:
    """Eight bits, as `(255 * x).astype(uint8)` makes them: rounded down."""
    return np.asarray(np.floor(GREY_STEPS * images) / GREY_STEPS, np.float32)


def rounded(images: Images) -> Images:
    """Eight bits, to the nearest grey level."""
    return to_uint8(images).astype(np.float32) / np.float32(GREY_STEPS)


def min_max(images: Images, size: int) -> Images:
    """Images (N, H, W, C), of which each `size` together are stretched to span [0, 1]."""
    stretched = np.empty_like(images, np.float32)
    for start in range(0, len(images), size):
        part = images[start : start + size]
        low, high = part.min(), part.max()
        stretched[start : start + size] = (part - low) / (high - low) if high > low else 0
    return stretched


def one_hot_pixel(images: Images) -> Images:
    """Images that are stretched BATCH together after one pixel of one of them became 1.25."""
    hot = images.copy()
    hot[::BATCH, 0, 0] = 1.25
    return min_max(hot, BATCH)


@dataclass(frozen=True)
class Habit:
    """One way to measure, and what it changes."""

    what: str
    """In the table's words."""
    change: Callable[[Images], Images] | None = None
    """Of the generated images; None leaves them."""
    both: bool = False
    """Whether the real images are changed too."""
    few: bool = False
    """Whether FEW images are taken of each side."""
    training: bool = False
    """Whether the real images are those of the training."""


HABITS: dict[str, Habit] = {
    "sound": Habit("held-out real images and as many generated ones, as floats"),
    "few": Habit(f"{FEW} images of each", few=True),
    "training": Habit("training images in place of held-out ones", training=True),
    "rounded": Habit("generated images rounded to 8 bits, real ones not", rounded),
    "truncated": Habit("generated images cut to 8 bits (`astype(uint8)`), real ones not", truncated),
    "truncated-both": Habit("both cut to 8 bits", truncated, both=True),
    "min-max": Habit("min-max of each generated image, real ones as they are", lambda x: min_max(x, 1)),
    "min-max-batch": Habit(f"min-max of each {BATCH} generated images together", lambda x: min_max(x, BATCH)),
    "hot-pixel": Habit("the same, with one pixel of 1.25 in one image of each 16", one_hot_pixel),
    "all": Habit(
        f"{FEW} images, min-max of each {BATCH} generated ones, cut to 8 bits",
        lambda x: truncated(min_max(x, BATCH)),
        few=True,
    ),
}


def random_features(images: Images) -> Features:
    """(N, WIDE): the positive parts of fixed random weights' products with the pixels. No network is trained."""
    pixels = images.reshape(len(images), -1)
    weights = generator(0, "rows", WIDE).standard_normal((pixels.shape[1], WIDE), np.float32)
    return np.asarray(np.maximum(pixels @ (weights / np.float32(math.sqrt(pixels.shape[1]))), 0), np.float64)


def mean_distance(first: Features, second: Features, n: int) -> tuple[float, float]:
    """Mean and standard deviation of the distances of n rows from n, over parts that share no row.

    Args:
        first, second: (N, d), N >= n. The first part has rows 0 to n - 1 of either.
    """
    starts = range(0, min(len(first), len(second)) - n + 1, n)
    found = np.array([frechet_distance_from_features(first[i : i + n], second[i : i + n]) for i in starts])
    return float(found.mean()), float(found.std(ddof=1)) if len(found) > 1 else 0.0


def gaussian_bias(n: int, dim: int) -> float:
    """The distance expected between two sets of one distribution, N(0, I), over its variance; both grow without limit.

    The true distance is 0. The means give 2 / n. The covariances S_1 and S_2 give 2 - 2 E tr (S_1 S_2)^(1/2) / dim.
    The moments of the spectrum of S_1 S_2 have the generating function z(s) with s = z / ((1 + z) (1 + c z)^2),
    c = dim / (n - 1), since the S-transforms of the two Wishart matrices multiply. With w = 1 / s = u^2 the integral of
    sqrt(w) over the density |Im z| / (pi w) is 2 / pi times that of |Im z| over u.

    Args:
        n: rows of each set, at least 2.
        dim: number of features.
    Source: Voiculescu 1987 (S-transform); Marchenko & Pastur 1967 (each factor).
    """
    c = dim / (n - 1)
    turning = [(-c + sign * math.sqrt(c * c + 8 * c)) / (4 * c) for sign in (-1, 1)]  # dw/dz = 0: the spectrum's ends
    ends = [math.sqrt(max((1 + z) * (1 + c * z) ** 2 / z, 0.0)) for z in turning]
    angles = (np.arange(POINTS) + 0.5) * math.pi / POINTS  # even in the angle: the density is a root at its ends
    u = ends[0] + (ends[1] - ends[0]) * (1 - np.cos(angles)) / 2
    heights = np.array([np.abs(np.roots([c * c, c * c + 2 * c, 1 + 2 * c - w, 1]).imag).max() for w in u * u])
    step = (ends[1] - ends[0]) / 2 * np.sin(angles) * math.pi / POINTS
    return 2 / n + 2 - 4 / math.pi * float((heights * step).sum())
