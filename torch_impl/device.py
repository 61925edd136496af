"""The device that a network runs on. Twin: tf_impl/device.py."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from core.twin import choose_device


def pick_device(name: str = "auto", dtype: str = "float32") -> torch.device:
    """The device of a name; see core.twin.choose_device().

    On an NVIDIA GPU float32 arithmetic is exact from then on, without TF32, in the whole process.
    """
    there = ["cpu", *["cuda"] * torch.cuda.is_available(), *["mps"] * torch.backends.mps.is_available()]
    name = choose_device("PyTorch", name, there, dtype)
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
