"""A small model of images in closed form: Gaussian kernel ridge regression on their main components.

It learns classes and numbers from some hundred images in seconds, and gives the same result everywhere: nothing in it
is random. Its two settings are chosen by the leave-one-out error, which has a closed form too.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy.linalg

from core.metrics.moments import FloatArray
from core.metrics.pixels import Images, check_images

STRETCH = 0.02
"""Added to pixel values before the square root, which makes photon noise equally strong in sky and source."""
COMPONENTS = 60
"""Main components of the training images. On more of them, noise hides what tells images apart."""
WIDTHS = (0.1, 0.25, 0.5, 1.0)
"""Candidates of the kernel's 1 / width^2, times the median squared distance of training images."""
PENALTIES = tuple(10.0**power for power in range(-5, 2))
"""Candidates of the ridge, relative to the kernel's diagonal of 1."""
MOST = 5000
"""Most training images: the kernel has N^2 entries and takes N^3 operations."""
LEAST = 20


class KernelRidge:
    """Kernels between training images and test images, from which every target is learned.

    Args:
        train: (N, H, W, C) in [0, 1], N from 20 to 5,000.
        test: (M, H, W, C) in [0, 1].
    Raises:
        ValueError: images as `check_images`, sizes that differ, or too few or too many training images.
    Source: Saunders, Gammerman & Vovk 1998, equation 8; the leave-one-out residual is Rifkin & Lippert 2007, section 3.
    """

    def __init__(self, train: Images, test: Images) -> None:
        if not LEAST <= len(train) <= MOST:
            raise ValueError(f"train: {len(train)} images: must be from {LEAST} to {MOST}")
        check_images(train, "train")
        check_images(test, "test")
        if train.shape[1:] != test.shape[1:]:
            raise ValueError(f"test: images of {test.shape[1:]}: must be {train.shape[1:]} as the training images")
        of_train, of_test = _components(train, test)
        squared = _squared_distances(of_train, of_train)
        scale = float(np.median(squared)) or 1.0
        to_test = _squared_distances(of_test, of_train)
        self._kernels = []
        for width in WIDTHS:
            values, vectors = np.linalg.eigh(np.exp(-width / scale * squared))
            self._kernels.append((np.maximum(values, 0.0), vectors, np.exp(-width / scale * to_test) @ vectors))

    def numbers(self, targets: npt.ArrayLike) -> FloatArray:
        """Predictions of numbers of the test images, each with the settings of its smallest leave-one-out error.

        Args:
            targets: (N, P) numbers of the training images.
        Returns:
            (M, P) float64.
        """
        y = np.asarray(targets, np.float64)
        best = np.full(y.shape[1], np.inf)
        found = np.empty((len(self._kernels[0][2]), y.shape[1]))
        for left_out, predicted in self._fits(y):
            error = ((left_out - y) ** 2).mean(axis=0)
            better = error < best
            best[better], found[:, better] = error[better], predicted[:, better]
        return found

    def classes(self, labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Predicted classes of the test images, with the settings of the largest leave-one-out accuracy.

        Args:
            labels: (N,) integers from 0.
        Returns:
            (M,) int64.
        """
        y = np.asarray(labels, np.int64)
        best, found = -1.0, np.zeros(len(self._kernels[0][2]), np.int64)
        for left_out, predicted in self._fits(np.eye(int(y.max()) + 1)[y]):
            accuracy = float((left_out.argmax(axis=1) == y).mean())
            if accuracy > best:
                best, found = accuracy, predicted.argmax(axis=1)
        return found

    def _fits(self, y: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
        """For every setting the leave-one-out predictions (N, P) and those of the test images (M, P)."""
        mean = y.mean(axis=0)
        for values, vectors, to_test in self._kernels:
            projected = vectors.T @ (y - mean)
            for penalty in PENALTIES:
                inverse = 1 / (values + penalty)
                weighted = projected * inverse[:, None]
                diagonal = (vectors * vectors) @ inverse
                yield y - vectors @ weighted / diagonal[:, None], mean + to_test @ weighted


def _components(train: Images, test: Images) -> tuple[FloatArray, FloatArray]:
    """Main components of the stretched training images, of both sets."""
    rows, others = (np.sqrt(x.reshape(len(x), -1).astype(np.float64) + STRETCH) for x in (train, test))
    mean = rows.mean(axis=0)
    rows, others = rows - mean, others - mean
    count = min(COMPONENTS, len(rows) - 1)
    values, vectors = scipy.linalg.eigh(rows @ rows.T, subset_by_index=[len(rows) - count, len(rows) - 1])
    kept = values > 1e-12 * max(values[-1], 1e-300)
    axes = rows.T @ (vectors[:, kept] / np.sqrt(values[kept]))
    return rows @ axes, others @ axes


def _squared_distances(a: FloatArray, b: FloatArray) -> FloatArray:
    squared = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b) - 2 * a @ b.T
    return np.asarray(np.maximum(squared, 0.0))
