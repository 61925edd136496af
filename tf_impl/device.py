"""The device that a network runs on. Twin: torch_impl/device.py."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from core.twin import choose_device


def pick_device(name: str = "auto", dtype: str = "float32") -> str:
    """TensorFlow's word for the device of a name; see core.twin.choose_device().

    On an NVIDIA GPU float32 arithmetic is exact from then on, without TF32, in the whole process.
    """
    gpu = "mps" if sys.platform == "darwin" else "cuda"
    there = ["cpu", *[gpu] * bool(tf.config.list_physical_devices("GPU"))]
    name = choose_device("TensorFlow", name, there, dtype)
    if name == "cuda":
        tf.config.experimental.enable_tensor_float_32_execution(False)
    return "/CPU:0" if name == "cpu" else "/GPU:0"


def device_name(device: str) -> str:
    """The name for a manifest: a GPU's own, or cpu."""
    if "GPU" not in device:
        return "cpu"
    (gpu, *_) = tf.config.list_physical_devices("GPU")
    name: str = tf.config.experimental.get_device_details(gpu).get("device_name", "gpu")
    return name


def on_device(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that places its tensors, graphs and variables on `self.device`."""

    @functools.wraps(method)
    def placed(self: Any, *arguments: Any, **options: Any) -> Any:
        with tf.device(self.device):
            return method(self, *arguments, **options)

    return placed


def peak_memory() -> int:
    """Most bytes of the first NVIDIA GPU's memory since reset_peak_memory()."""
    peak: int = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return peak


def reset_peak_memory() -> None:
    """Forget the peak of the first NVIDIA GPU's memory."""
    tf.config.experimental.reset_memory_stats("GPU:0")


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether an NVIDIA GPU may round the inputs of float32 convolutions and matrix products to TF32's 10 bits."""
    tf.config.experimental.enable_tensor_float_32_execution(allowed)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(False)
