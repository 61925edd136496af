"""The order of samples in training, and their symmetries: pure functions of seed and step, equal in both twins."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from core.random import generator

Indices = npt.NDArray[np.int64]


@functools.lru_cache(maxsize=4)  # kept for the steps of one epoch
def epoch_permutation(seed: int, epoch: int, count: int) -> Indices:
    """Order of an epoch: a permutation of range(count), int64, read-only, a pure function of the arguments."""
    if count < 1 or epoch < 0 or not 0 <= seed < 2**63:
        raise ValueError(f"seed, epoch, count = {seed}, {epoch}, {count}: must be in [0, 2^63), at least 0, at least 1")
    order = generator(seed, "order", epoch).permutation(count).astype(np.int64)
    order.setflags(write=False)
    return order


def batch_indices(seed: int, step: int, batch_size: int, count: int) -> Indices:
    """Samples of one optimiser step, from the epochs' permutations laid end to end.

    Args:
        seed: in [0, 2^63).
        step: 0-based optimiser step; the batch starts at position step * batch_size of the stream.
        batch_size: at least 1; a batch may straddle epochs, and hold several.
        count: number of images in an epoch, at least 1.
    Returns:
        (batch_size,) int64 in [0, count): positions in the training set.
    """
    if step < 0 or batch_size < 1 or count < 1 or not 0 <= seed < 2**63:
        raise ValueError(
            f"seed, step, batch_size, count = {seed}, {step}, {batch_size}, {count}: must be in [0, 2^63), at least 0, "
            "at least 1, at least 1"
        )
    epochs, offsets = np.divmod(step * batch_size + np.arange(batch_size, dtype=np.int64), count)
    pieces = [epoch_permutation(seed, int(epoch), count)[offsets[epochs == epoch]] for epoch in np.unique(epochs)]
    return np.concatenate(pieces)


def symmetry_codes(seed: int, step: int, batch_size: int, square: bool) -> Indices:
    """Random codes for `symmetry`, (batch_size,) int64: 0..7, or 0..3 where H != W; pure in the arguments."""
    return generator(seed, "symmetry", 0, step).integers(0, 8 if square else 4, batch_size, dtype=np.int64)


def symmetry(images: npt.NDArray[Any], codes: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
    """The eight symmetries of the square, one a sample.

    Args:
        images: (B, H, W, C).
        codes: (B,) in 0..7: bit 0 reverses columns, bit 1 rows, bit 2 then swaps the two (only where H = W).
    Returns:
        A new array of the same shape and dtype; pixels are moved, never changed.
    Raises:
        ValueError: a code outside the range, or one that swaps axes where H != W.
    """
    allowed = 8 if images.shape[1] == images.shape[2] else 4
    if len(codes) != len(images) or (len(codes) and not 0 <= int(np.min(codes)) <= int(np.max(codes)) < allowed):
        raise ValueError(f"codes: must be {len(images)} integers in 0..{allowed - 1} for images {images.shape[1:3]}")
    result = np.empty_like(images)
    for index, code in enumerate(codes):
        image = images[index, :: -1 if code & 2 else 1, :: -1 if code & 1 else 1]
        result[index] = image.transpose(1, 0, 2) if code & 4 else image
    return result
