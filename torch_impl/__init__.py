"""The diffusion model in PyTorch. May import core and torch; never the other twin. Twin: tf_impl."""

from typing import Any

__all__ = ["load_unet"]


def __getattr__(name: str) -> Any:
    """Import PyTorch only when it is needed, so that --help answers at once."""
    if name == "load_unet":
        from torch_impl.weights import load_unet

        return load_unet
    raise AttributeError(f"module 'torch_impl' has no attribute {name!r}")
