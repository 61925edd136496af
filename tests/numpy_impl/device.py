"""The only device of NumPy."""

from __future__ import annotations

from core.twin import choose_device


def pick_device(name: str = "auto", dtype: str = "float32") -> str:
    """The CPU."""
    return choose_device("NumPy", name, ["cpu"], dtype)
