"""The comparison that every rung uses: it must fail."""

import numpy as np
import pytest

from core.exits import RunError
from eval.parity import tolerances
from eval.parity.closeness import NotCloseError, require_close

GOOD = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -8.0]])


def changed(value, dtype=np.float64):
    x = GOOD.astype(dtype)
    x[1, 0] = value
    return x


def test_what_is_close_passes_and_is_measured():
    assert require_close(GOOD, GOOD.copy(), 0.0, "x") == 0
    assert np.isclose(require_close(changed(4.008), GOOD, 0.01, "x"), 0.001)  # 0.008 / 8
    assert require_close(np.arange(3), np.arange(3), 0, "integers") == 0
    assert require_close(np.zeros(3), np.zeros(3), 0, "zeros") == 0
    assert require_close(np.float64(2) * np.ones(()), np.full((), 2.0), 0, "scalar") == 0
    assert require_close(GOOD.astype(np.float32), GOOD, 0, "x", "float32") == 0


@pytest.mark.parametrize(
    ("found", "expected", "tolerance", "message"),
    [
        (
            changed(4.1),
            GOOD,
            1e-2,
            r"differs by 0\.0125, tolerance 0\.01; worst at \(1, 0\): .*4\.1.*, expected .*4\.0",
        ),
        (changed(-4.0), GOOD, 0.5, "differs by 1"),
        (changed(np.nan), GOOD, np.inf, r"found nan at \(1, 0\), not finite"),
        (GOOD, changed(np.nan), np.inf, r"expected nan at \(1, 0\), not finite"),
        (changed(np.nan), changed(np.nan), np.inf, "not finite"),
        (changed(np.inf), changed(np.inf), np.inf, "found inf"),
        (GOOD[:, :2], GOOD, np.inf, r"shape \(2, 2\), expected \(2, 3\)"),
        (GOOD[:1], GOOD, np.inf, "shape"),  # which NumPy would broadcast
        (GOOD.T, GOOD, np.inf, "shape"),
        (GOOD.astype(np.float32), GOOD, np.inf, "dtype float32, expected float64"),
        (np.zeros((0, 3)), np.zeros((0, 3)), np.inf, "holds nothing to compare"),
        (np.full(3, 1e-9), np.zeros(3), 1e-10, "differs by 1e-09"),
        (np.array([2**62 + 1]), np.array([2**62]), 0, "differs by"),
        (np.array([np.float64(1) + 2**-52]), np.ones(1), 0, "differs by 2.22e-16"),
    ],
)
def test_what_is_not_close_fails(found, expected, tolerance, message):
    with pytest.raises(NotCloseError, match="x: .*" + message):
        require_close(found, expected, tolerance, "x")


def test_a_red_rung_is_a_failed_run():
    assert issubclass(NotCloseError, RunError)  # exit code 1


def test_tolerances_are_tighter_in_float64():
    for name in ("SAMPLER", "LAYER", "NETWORK", "GRADIENT"):
        assert 0 < getattr(tolerances, f"{name}_FLOAT64") < getattr(tolerances, f"{name}_FLOAT32") <= 1e-4
