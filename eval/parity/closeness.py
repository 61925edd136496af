"""The one comparison of two arrays that every rung and test uses. NumPy only; must not import a framework or a twin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from core.exits import RunError


class NotCloseError(RunError):
    """Two arrays differ by more than the tolerance, or cannot be compared: a red rung, which exits 1."""


@dataclass(frozen=True)
class Difference:
    """The largest difference of two arrays: relative to the oracle's largest value, and where it is."""

    measured: float
    index: tuple[int, ...]
    found: float
    expected: float


def difference(found: np.ndarray, expected: np.ndarray, what: str, dtype: DTypeLike | None = None) -> Difference:
    """Compare an array with its oracle.

    Args:
        found: what is under test, any shape.
        expected: the oracle, of the same shape.
        what: name of the quantity, for the message.
        dtype: what found must have; None for expected's.
    Returns:
        max abs(found - expected) / max abs(expected), and its element. Against an oracle of zeros, max abs(found).
    Raises:
        NotCloseError: other shape or dtype, nothing to compare, or a value that is not finite on either side.
    """
    wanted = np.dtype(expected.dtype if dtype is None else dtype)
    if found.shape != expected.shape:
        raise NotCloseError(f"{what}: shape {found.shape}, expected {expected.shape}")
    if found.dtype != wanted:
        raise NotCloseError(f"{what}: dtype {found.dtype}, expected {wanted}")
    if found.size == 0:
        raise NotCloseError(f"{what}: shape {found.shape} holds nothing to compare")
    for side, values in (("found", found), ("expected", expected)):
        finite = np.isfinite(values)
        if not finite.all():
            index = _index(np.argmin(finite), finite.shape)
            raise NotCloseError(f"{what}: {side} {values[index]} at {index}, not finite")
    # longdouble, so that int64 and float64 are both held exactly and the subtraction adds no rounding of its own.
    apart = np.abs(found.astype(np.longdouble) - expected.astype(np.longdouble))
    largest = float(np.max(np.abs(expected.astype(np.longdouble))))
    index = _index(np.argmax(apart), apart.shape)
    return Difference(float(apart[index]) / (largest or 1.0), index, float(found[index]), float(expected[index]))


def require_close(
    found: np.ndarray, expected: np.ndarray, tolerance: float, what: str, dtype: DTypeLike | None = None
) -> float:
    """Demand that an array equals its oracle, to a tolerance relative to the oracle's largest value.

    Args:
        found, expected, what, dtype: as in difference().
        tolerance: largest max abs(found - expected) / max abs(expected); 0 demands equality.
    Returns:
        The measured difference, so that a report can print it.
    Raises:
        NotCloseError: as difference(), or a difference beyond the tolerance, with the worst element's index.
    """
    worst = difference(found, expected, what, dtype)
    if worst.measured > tolerance:
        raise NotCloseError(
            f"{what}: differs by {worst.measured:.3g}, tolerance {tolerance:.3g}; worst at {worst.index}: "
            f"{worst.found!r}, expected {worst.expected!r}"
        )
    return worst.measured


def _index(flat: np.intp, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape))
