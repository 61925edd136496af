"""The choice of a device, which both twins share."""

import pytest

from core.twin import choose_device


@pytest.mark.parametrize(
    ("name", "there", "expected"),
    [
        ("auto", ["cpu"], "cpu"),
        ("auto", ["cpu", "cuda"], "cuda"),
        ("auto", ["cpu", "mps"], "cpu"),
        ("mps", ["cpu", "mps"], "mps"),
        ("cpu", ["cpu", "cuda"], "cpu"),
    ],
)
def test_a_device_that_is_there_is_taken(name, there, expected):
    assert choose_device("NumPy", name, there, "float32") == expected


@pytest.mark.parametrize(
    ("name", "there", "dtype", "message"),
    [
        ("gpu", ["cpu"], "float32", "device gpu: NumPy finds none here; must be auto or cpu"),
        ("cuda", ["cpu", "mps"], "float64", "device cuda: NumPy finds none here; must be auto or cpu or mps"),
        ("mps", ["cpu", "mps"], "float64", "device mps: has no float64; take device cpu, or training.dtype = float32"),
    ],
)
def test_a_device_that_is_not_there_is_refused(name, there, dtype, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        choose_device("NumPy", name, there, dtype)
