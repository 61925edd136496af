"""GroupNorm, an added offset before it and SiLU after it as one layer: compiled on a CPU, by TensorFlow elsewhere.

Twin: torch_impl/kernel.py.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from core.networks.group_norm import GroupNorm, has_kernel

# OpenMP's threads of the compiled function must not spin while TensorFlow's own threads work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ALIGNMENT = 64
"""Bytes. TensorFlow takes an array at a multiple of it without a copy."""

_allowed = ContextVar("_allowed", default=False)


def group_norm(
    norm: Any,
    x: Any,
    activation: Callable[[Any], Any] | None = None,
    offset: Any | None = None,
    scale: Any | None = None,
    shift: Any | None = None,
) -> Any:
    """activation(norm(x + offset) · (1 + scale) + shift), without what is None.

    Args:
        norm: the layer whose groups, epsilon, weight and bias are used.
        x: images (B, H, W, C).
        activation: an element-wise function.
        offset: (B, C).
        scale, shift: (B, C), both or neither.
    Returns:
        Images (B, H, W, C).
    """
    if _allowed.get() and x.dtype == norm.variable_dtype and has_kernel():
        weight, bias = norm.gamma.value[None], norm.beta.value[None]
        if scale is not None and shift is not None:
            weight, bias = weight * (1 + scale), bias * (1 + scale) + shift
        fused = activation is ops.silu
        y = _compiled(_Layer(norm.groups, norm.eps, fused), x, weight, bias, *([] if offset is None else [offset]))
        return y if fused or activation is None else activation(y)
    y = norm(x if offset is None else x + offset[:, None, None, :])
    if scale is not None and shift is not None:
        y = y * (1 + scale[:, None, None, :]) + shift[:, None, None, :]
    return y if activation is None else activation(y)


@contextlib.contextmanager
def compiled_layers(allowed: bool) -> Iterator[None]:
    """Whether what is traced meanwhile may use the compiled function, which works on a CPU and outside XLA alone.

    By default it may not, since a graph with it cannot be saved to a file.
    """
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


@dataclass(frozen=True)
class _Layer:
    """The compiled layer on NumPy arrays: images are (B, H, W, C), weight and bias (B or 1, C), offset (B, C)."""

    groups: int
    eps: float
    silu: bool

    def _kernel(self, x: np.ndarray, weight: np.ndarray) -> GroupNorm:
        B, H, W, C = x.shape
        threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1
        return GroupNorm(str(x.dtype), (B, H * W, C), self.groups, len(weight), self.eps, self.silu, threads)

    def forward(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *offset: np.ndarray) -> list[np.ndarray]:
        """The output, and the statistics that backward() takes."""
        B, C = x.shape[0], x.shape[3]
        y, *statistics = (_empty(shape, x) for shape in (x.shape, (B, self.groups), (B, self.groups), (B, C)))
        inputs = (x, *(offset or (None,)), weight, bias)
        self._kernel(x, weight).forward(*map(_address, (*inputs, *statistics, y)))
        return [y, *statistics]

    def backward(self, dy: np.ndarray, *saved: np.ndarray) -> list[np.ndarray]:
        """Gradients of x, weight, bias and, where given, offset; `saved` is the statistics and forward()'s inputs."""
        mean, rstd, channel_mean, x, weight, bias, *given = saved
        offset = given[0] if given else None
        dx, d_weight, d_bias, d_offset = (_empty(shape, x) for shape in (x.shape, *[channel_mean.shape] * 3))
        outputs = (dx, d_weight, d_bias, d_offset if given else None)
        inputs = (x, offset, weight, bias, mean, rstd, channel_mean, dy)
        self._kernel(x, weight).backward(*map(_address, (*inputs, *outputs)))
        if len(weight) == 1:
            d_weight, d_bias = (d.sum(axis=0, keepdims=True) for d in (d_weight, d_bias))
        return [dx, d_weight, d_bias, *[d_offset] * len(given)]


def _compiled(layer: _Layer, *inputs: Any) -> Any:
    """The compiled layer of x, weight, bias and, where given, offset."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(*inputs: Any) -> Any:
        dtype = inputs[0].dtype
        y, *statistics = tf.numpy_function(layer.forward, inputs, [dtype] * 4, stateful=False)
        y.set_shape(inputs[0].shape)

        def gradient(dy: Any) -> list[Any]:
            saved = (dy, *statistics, *inputs)
            found = tf.numpy_function(layer.backward, saved, [dtype] * len(inputs), stateful=False)
            for value, given in zip(found, inputs, strict=True):
                value.set_shape(given.shape)
            return found

        return y, gradient

    return apply(*inputs)


def _empty(shape: tuple[int, ...], like: np.ndarray) -> np.ndarray:
    """An array of a shape, at a multiple of ALIGNMENT."""
    count = math.prod(shape)
    buffer = np.empty(count + ALIGNMENT // like.itemsize, like.dtype)
    start = -buffer.ctypes.data % ALIGNMENT // like.itemsize
    return buffer[start : start + count].reshape(shape)


def _address(x: np.ndarray | None) -> Any:
    return None if x is None else x.ctypes.data
