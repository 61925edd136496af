"""A graph of ONNX operations, with the layers that both networks have. Images are NCHW and float32."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


class Graph:
    """Operations and constants. Each method adds operations and returns the name of the resulting tensor.

    Args:
        weights: every parameter of the network by canonical name (OIHW).
    """

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def op(self, kind: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Add an ONNX operation. An array among its inputs becomes a constant."""
        from onnx import helper

        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], **attributes))
        return output

    def constant(self, value: np.ndarray, name: str = "") -> str:
        """Add a constant; floats are stored as float32."""
        from onnx import numpy_helper

        value = value.astype(np.float32) if value.dtype.kind == "f" else value
        name = name or f"constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def parameter(self, name: str) -> str:
        """A parameter of the network, by its canonical name."""
        return name if name in self.constants else self.constant(self.weights[name], name)

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape; 0 keeps the size of an axis, and -1 takes what remains."""
        return self.op("Reshape", x, np.array(shape, np.int64))

    def conv(self, name: str, x: str, stride: int = 1, before: int | None = None) -> str:
        """A convolution. `before` is the padding at top and left in pixels; None takes half the kernel's size."""
        size = self.weights[f"{name}.weight"].shape[-1]
        after = size // 2
        pads = [after if before is None else before] * 2 + [after] * 2
        bias = [self.parameter(f"{name}.bias")] if f"{name}.bias" in self.weights else []
        kernel = self.parameter(f"{name}.weight")
        return self.op("Conv", x, kernel, *bias, kernel_shape=[size] * 2, pads=pads, strides=[stride] * 2)

    def linear(self, name: str, x: str) -> str:
        """A linear layer on the last axis."""
        product = self.op("MatMul", x, self.weights[f"{name}.weight"].T)
        return self.op("Add", product, self.parameter(f"{name}.bias"))

    def group_norm(self, name: str, x: str, groups: int, size: tuple[int, int], eps: float) -> str:
        """Group normalisation of an image (B, C, *size)."""
        scale, shift = (self.weights[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
        h = self.reshape(x, 0, groups, -1)
        h = self.op("InstanceNormalization", h, np.ones(groups), np.zeros(groups), epsilon=eps)
        h = self.reshape(h, 0, len(scale), *size)
        return self.op("Add", self.op("Mul", h, scale), shift)

    def layer_norm(self, name: str, x: str, eps: float) -> str:
        """Layer normalisation of the last axis."""
        scale, shift = (self.parameter(f"{name}.{part}") for part in ("weight", "bias"))
        return self.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=eps)

    def silu(self, x: str) -> str:
        """x sigmoid(x)."""
        return self.op("Mul", x, self.op("Sigmoid", x))

    def gelu(self, x: str) -> str:
        """The exact GELU, x (1 + erf(x / sqrt(2))) / 2."""
        erf = self.op("Erf", self.op("Div", x, np.array(math.sqrt(2))))
        return self.op("Mul", self.op("Mul", x, self.op("Add", erf, np.array(1.0))), np.array(0.5))

    def sinusoids(self, frequencies: np.ndarray, flip: bool) -> str:
        """The time embedding's sines and cosines of the input t: (B,) -> (B, 2 len(frequencies))."""
        angle = self.op("Mul", self.reshape("t", -1, 1), frequencies)
        parts = self.op("Sin", angle), self.op("Cos", angle)
        return self.op("Concat", *(reversed(parts) if flip else parts), axis=1)

    def attention(self, q: str, k: str, v: str, heads: int, pixels: int, channels: int) -> str:
        """Softmax(q k^T / sqrt(d)) v of (B, pixels, channels), over the pixels."""
        size = channels // heads
        q, k, v = (self.reshape(part, 0, pixels, heads, size) for part in (q, k, v))
        q = self.op("Mul", self.op("Transpose", q, perm=[0, 2, 1, 3]), np.array(size**-0.5))
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 2, 3, 1]))  # (B, heads, pixels, pixels)
        h = self.op("MatMul", self.op("Softmax", scores, axis=-1), self.op("Transpose", v, perm=[0, 2, 1, 3]))
        return self.reshape(self.op("Transpose", h, perm=[0, 2, 1, 3]), 0, pixels, channels)

    def nearest_x2(self, x: str) -> str:
        """Nearest-neighbour upsampling by 2."""
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.op("Resize", x, "", np.array([1.0, 1.0, 2.0, 2.0]), **how)

    def channels(self, x: str, first: int, end: int) -> str:
        """Some of the channels, the second axis."""
        return self.op("Slice", x, np.array([first]), np.array([end]), np.array([1]))

    def divide(self, x: str, divisor: float) -> str:
        """x / divisor; nothing is done where the divisor is 1."""
        return x if divisor == 1 else self.op("Div", x, np.array(divisor))
