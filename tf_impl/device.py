"""The device that a network runs on. Twin: torch_impl/device.py."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf


def pick_device(name: str = "auto", dtype: str = "float32") -> str:
    """TensorFlow's word for the device of a name.

    On an NVIDIA GPU float32 arithmetic is exact from then on, without TF32, in the whole process.

    Args:
        name: cuda, an NVIDIA GPU (or AMD's, in a ROCm build); mps, Apple's GPU; cpu; or auto, which is cuda where there
            is one, and otherwise cpu.
        dtype: float32 or float64, which mps does not have.
    Raises:
        ValueError: the device is not there.
    """
    gpu = "mps" if sys.platform == "darwin" else "cuda"
    there = ["cpu", *[gpu] * bool(tf.config.list_physical_devices("GPU"))]
    if name == "auto":
        name = "cuda" if "cuda" in there else "cpu"
    if name not in there:
        raise ValueError(f"device {name}: TensorFlow finds none here; must be auto or {' or '.join(there)}")
    if name == "mps" and dtype == "float64":
        raise ValueError("device mps: has no float64; take device cpu, or training.dtype = float32")
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
