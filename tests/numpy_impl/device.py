"""The only device of NumPy."""

from __future__ import annotations


def pick_device(name: str = "auto", dtype: str = "float32") -> str:
    """The CPU."""
    if name not in ("auto", "cpu"):
        raise ValueError(f"device {name}: NumPy finds none here; must be auto or cpu")
    return "cpu"
