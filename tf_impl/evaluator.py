"""The network on arrays: its output, and the product of a vector with its Jacobian. Twin: torch_impl/evaluator.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from core.config import ModelConfig
from core.inference.conditioning import Condition
from tf_impl.sampler import Sampler
from tf_impl.weights import build_unet


class Evaluator:
    """Evaluates a network; see core.inference.likelihood.Evaluator for shapes.

    Args:
        network: the U-Net, or any function with its signature.
    """

    def __init__(self, network: Callable[..., Any]) -> None:
        self.network = network
        self.sampler = Sampler(network)

        def product(x: Any, t: Any, v: Any, given: dict[str, Any]) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                output = network(x, t, **given)
            return output, tape.gradient(output, x, v)

        self.product = tf.function(product, reduce_retracing=True, autograph=False)

    def __call__(self, x: np.ndarray, t: np.ndarray, condition: Condition | None = None) -> np.ndarray:
        """The network's output."""
        given = self.sampler.tensors(condition)
        return self.sampler.evaluate(tf.constant(x), tf.constant(t), given).numpy()

    def vector_jacobian(
        self, x: np.ndarray, t: np.ndarray, v: np.ndarray, condition: Condition | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The network's output, and v^T d output / d x."""
        given = self.sampler.tensors(condition)
        output, product = self.product(tf.constant(x), tf.constant(t), tf.constant(v), given)
        return output.numpy(), product.numpy()


def make_evaluator(config: ModelConfig, weights: Mapping[str, np.ndarray], dtype: str = "float32") -> Evaluator:
    """The evaluator of a network with given weights, on a GPU where there is one."""
    return Evaluator(build_unet(config, weights, dtype))
