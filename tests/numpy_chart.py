"""The network of chart coordinates in NumPy: the reference of both twins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.config import ModelConfig
from core.networks.chart import CHART_NORM_EPS
from core.networks.specs import time_frequencies

Array = NDArray[np.float64]


def silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


class NumpyChart:
    """The network with given weights, on arrays x (B, 1, 1, D) and t (B,)."""

    def __init__(self, config: ModelConfig, weights: dict[str, Array]) -> None:
        self.config, self.weights = config, weights

    def linear(self, name: str, x: Array) -> Array:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def modulated(self, h: Array, shift: Array, scale: Array) -> Array:
        centred = h - h.mean(axis=1, keepdims=True)
        variance = np.square(centred).mean(axis=1, keepdims=True)
        return np.asarray(centred / np.sqrt(variance + CHART_NORM_EPS) * (1 + scale) + shift)

    def embedded(self, name: str, x: Array) -> Array:
        return self.linear(f"{name}.linear_2", silu(self.linear(f"{name}.linear_1", x)))

    def __call__(
        self,
        x: Array,
        t: Array,
        labels: NDArray[np.int64] | None = None,
        vector: Array | None = None,
        keep: Array | None = None,
    ) -> Array:
        angle = np.asarray(t)[:, None] * time_frequencies(self.config)
        c = self.embedded("time_embedding", np.concatenate([np.cos(angle), np.sin(angle)], axis=1))
        if labels is not None:
            c = c + self.weights["class_embedding.weight"][labels]
        if vector is not None and keep is not None:
            c = c + self.embedded("vector_embedding", np.concatenate([vector * keep[:, None], keep[:, None]], axis=1))
        c, h = silu(c), self.linear("proj_in", x[:, 0, 0])
        for i in range(self.config.layers_per_block):
            shift, scale, gate = np.split(self.linear(f"blocks.{i}.modulation", c), 3, axis=1)
            inner = silu(self.linear(f"blocks.{i}.linear_1", self.modulated(h, shift, scale)))
            h = h + gate * self.linear(f"blocks.{i}.linear_2", inner)
        shift, scale = np.split(self.linear("norm_out.modulation", c), 2, axis=1)
        return self.linear("proj_out", self.modulated(h, shift, scale))[:, None, None]
