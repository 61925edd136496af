"""The one comparison of two arrays that every rung and test uses. NumPy only; must not import a framework or a twin."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from core.command import RunError


class NotCloseError(RunError):
    """Two arrays differ by more than the tolerance, or cannot be compared: a red rung, which exits 1."""


def require_close(
    found: np.ndarray, expected: np.ndarray, tolerance: float, what: str, dtype: DTypeLike | None = None
) -> float:
    """Demand that an array equals its oracle, to a tolerance relative to the oracle's largest value.

    Args:
        found: what is under test, any shape.
        expected: the oracle, of the same shape.
        tolerance: largest max abs(found - expected) / max abs(expected); 0 demands equality.
        what: name of the quantity, for the message.
        dtype: what found must have; None for expected's.
    Returns:
        The measured difference, so that a report can print it. Against an oracle of zeros it is max abs(found).
    Raises:
        NotCloseError: other shape or dtype, nothing to compare, a value that is not finite on either side, or a
            difference beyond the tolerance, with the worst element's index.
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
    difference = np.abs(found.astype(np.longdouble) - expected.astype(np.longdouble))
    largest = float(np.max(np.abs(expected.astype(np.longdouble))))
    index = _index(np.argmax(difference), difference.shape)
    measured = float(difference[index]) / (largest or 1.0)
    if measured > tolerance:
        raise NotCloseError(
            f"{what}: differs by {measured:.3g}, tolerance {tolerance:.3g}; worst at {index}: "
            f"{found[index]!r}, expected {expected[index]!r}"
        )
    return measured


def _index(flat: np.intp, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape))
