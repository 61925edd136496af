"""The network on arrays: its output, and the product of a vector with its Jacobian. Twin: torch_impl/evaluator.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from core.config import ModelConfig
from tf_impl.weights import build_unet


class Evaluator:
    """Evaluates a network; see core.likelihood.Evaluator for shapes.

    Args:
        network: the U-Net, or any function with its signature.
    """

    def __init__(self, network: Callable[..., Any]) -> None:
        self.network = network

        def product(x: Any, v: Any, t: Any, labels: Any) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                output = network(x, t, labels)
            return output, tape.gradient(output, x, v)

        # Compiled: an eager call costs ten times as much at batch 1. A second batch size makes the batch dimension free.
        self.output = tf.function(lambda x, t, y: network(x, t, y), reduce_retracing=True, autograph=False)
        self.product = tf.function(product, reduce_retracing=True, autograph=False)

    def __call__(self, x: np.ndarray, t: np.ndarray, condition: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """The network's output."""
        return self.output(tf.constant(x), *self.inputs(t, condition)).numpy()

    def vector_jacobian(
        self, x: np.ndarray, t: np.ndarray, v: np.ndarray, condition: Mapping[str, np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The network's output, and v^T d output / d x."""
        output, product = self.product(tf.constant(x), tf.constant(v), *self.inputs(t, condition))
        return output.numpy(), product.numpy()

    def inputs(self, t: np.ndarray, condition: Mapping[str, np.ndarray] | None) -> list[Any]:
        """What the network is given beside x: levels and classes."""
        labels = (condition or {}).get("labels")
        return [tf.constant(t), None if labels is None else tf.constant(labels)]


def make_evaluator(config: ModelConfig, weights: Mapping[str, np.ndarray], dtype: str = "float32") -> Evaluator:
    """The evaluator of a network with given weights, on a GPU where there is one."""
    return Evaluator(build_unet(config, weights, dtype))
