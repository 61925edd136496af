"""The diffusion model in Keras 3 on TensorFlow. May import core, keras and tensorflow; never the other twin.
Twin: torch_impl."""

import os
from typing import Any

# All are read when the frameworks are first imported. TensorFlow turns oneDNN on by itself only where the CPU has
# AVX-512; with AVX2 alone its convolutions are half as fast without it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__all__ = ["load_unet"]


def __getattr__(name: str) -> Any:
    """Import TensorFlow only when it is needed, so that --help answers at once."""
    if name == "load_unet":
        from tf_impl.weights import load_unet

        return load_unet
    raise AttributeError(f"module 'tf_impl' has no attribute {name!r}")
