"""The device that a network runs on. Twin: tf_impl/device.py."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def pick_device(name: str = "auto", dtype: str = "float32") -> torch.device:
    """The device of a name.

    On an NVIDIA GPU float32 arithmetic is exact from then on, without TF32, in the whole process.

    Args:
        name: cuda, an NVIDIA GPU (or AMD's, in a ROCm build); mps, Apple's GPU; cpu; or auto, which is cuda where there
            is one, and otherwise cpu.
        dtype: float32 or float64, which mps does not have.
    Raises:
        ValueError: the device is not there.
    """
    there = ["cpu", *["cuda"] * torch.cuda.is_available(), *["mps"] * torch.backends.mps.is_available()]
    if name == "auto":
        name = "cuda" if "cuda" in there else "cpu"
    if name not in there:
        raise ValueError(f"device {name}: PyTorch finds none here; must be auto or {' or '.join(there)}")
    if name == "mps" and dtype == "float64":
        raise ValueError("device mps: has no float64; take device cpu, or training.dtype = float32")
    if name == "cuda":
        _allow_tf32(False)
        return torch.device("cuda", torch.cuda.current_device())  # which each thread has its own of
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """The name for a manifest: a GPU's own, or mps or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_memory() -> int:
    """Most bytes of the first NVIDIA GPU's memory since reset_peak_memory()."""
    return torch.cuda.max_memory_allocated()


def reset_peak_memory() -> None:
    """Forget the peak of the first NVIDIA GPU's memory."""
    torch.cuda.reset_peak_memory_stats()


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether an NVIDIA GPU may round the inputs of float32 convolutions and matrix products to TF32's 10 bits."""
    _allow_tf32(allowed)
    try:
        yield
    finally:
        _allow_tf32(False)


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
