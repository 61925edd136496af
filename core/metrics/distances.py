"""Distances between samples: one-dimensional Wasserstein, and the nearest training neighbour.

The nearest training neighbour answers one question: did the model copy? It is compared with the distance from held-out
images to the same training set. Generated images that are much nearer than held-out ones are copies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from core.metrics.moments import FloatArray, check_features
from core.metrics.pixels import Images, check_images

QUERY_BLOCK, TRAIN_BLOCK = 1024, 4096


def wasserstein(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Wasserstein-1 distance between two one-dimensional samples: the mean distance mass must move.

    Args:
        a: (n,) finite values.
        b: (m,) finite values.
    Returns:
        The distance, in the values' unit.
    Raises:
        ValueError: not one-dimensional, empty, or a value that is not finite.
    Source: Villani 2003, theorem 2.18: the integral of |F_a - F_b|.
    """
    values = []
    for name, sample in (("a", np.asarray(a, np.float64)), ("b", np.asarray(b, np.float64))):
        if sample.ndim != 1 or sample.size == 0:
            raise ValueError(f"{name}: shape {sample.shape}: must be (n,) with n at least 1")
        if not np.isfinite(sample).all():
            raise ValueError(f"{name}: holds NaN or infinity: must be finite; drop and count undefined values first")
        values.append(np.sort(sample))
    first, second = values
    merged = np.sort(np.concatenate(values))
    cdf_a = np.searchsorted(first, merged[:-1], side="right") / first.size
    cdf_b = np.searchsorted(second, merged[:-1], side="right") / second.size
    return float(np.abs(cdf_a - cdf_b) @ np.diff(merged))


def wasserstein_of_histograms(a: npt.ArrayLike, b: npt.ArrayLike, width: float) -> float:
    """Wasserstein-1 distance between two histograms on the same equal bins; wrong by at most one bin's width.

    Args:
        a, b: (bins,) shares that sum to 1.
        width: width of a bin.
    Returns:
        The distance, in the width's unit.
    Raises:
        ValueError: shapes that differ.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"a, b: shapes {first.shape}, {second.shape}: must be the same (bins,)")
    return float(np.abs(np.cumsum(first - second)).sum() * width)


def nearest(queries: npt.ArrayLike, train: npt.ArrayLike) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Nearest row of `train` for each query, by exhaustive search in blocked matrix products.

    The search ranks by |t|^2 - 2 q.t in float64 on centred rows; the distance returned is then formed from the
    difference itself, so that an exact copy lies at exactly 0.

    Args:
        queries: (n, d).
        train: (m, d), m >= 1.
    Returns:
        distance: (n,) float64, L2 over the d values.
        index: (n,) int64, row of train.
    Raises:
        ValueError: wrong shape, no training row, or a value that is not finite.
    """
    rows = np.asarray(train)
    if len(rows) == 0:
        raise ValueError("train: no rows: must be at least 1")
    points = np.asarray(queries)
    centre = check_features(rows[:TRAIN_BLOCK], "train").mean(axis=0)
    best = np.full(len(points), np.inf)
    index = np.zeros(len(points), np.int64)
    for start in range(0, len(rows), TRAIN_BLOCK):
        block = check_features(rows[start : start + TRAIN_BLOCK], "train") - centre
        norms = np.einsum("md,md->m", block, block)
        for first in range(0, len(points), QUERY_BLOCK):
            part = slice(first, first + QUERY_BLOCK)
            score = norms - 2.0 * ((check_features(points[part], "queries", block.shape[1]) - centre) @ block.T)
            winner = score.argmin(axis=1)
            value = score[np.arange(len(score)), winner]
            nearer = value < best[part]
            best[part][nearer] = value[nearer]
            index[part][nearer] = start + winner[nearer]
    distance = np.empty(len(points))
    for first in range(0, len(points), QUERY_BLOCK):
        part = slice(first, first + QUERY_BLOCK)
        difference = points[part].astype(np.float64) - rows[index[part]]
        distance[part] = np.sqrt(np.einsum("nd,nd->n", difference, difference))
    return distance, index


def nearest_images(images: Images, train: Images) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Nearest training image for each image.

    Args:
        images: (N, H, W, C) in [0, 1].
        train: (M, H, W, C) in [0, 1].
    Returns:
        distance: (N,) float64, L2 over all pixels and channels, in units of intensity.
        index: (N,) int64, index of the training image.
    Raises:
        ValueError: images as `check_images`; sizes that differ.
    """
    check_images(images, "images")
    check_images(train, "train")
    if images.shape[1:] != train.shape[1:]:
        raise ValueError(f"train: images of {train.shape[1:]}: must be {images.shape[1:]} as in images")
    flat: tuple[npt.NDArray[Any], ...] = (images.reshape(len(images), -1), train.reshape(len(train), -1))
    return nearest(*flat)
