"""The network with a fixed condition, and the loop that runs a sampling table over it. Twin: torch_impl/sampler.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from core.config import ModelConfig
from core.inference.conditioning import Condition
from core.inference.on_arrays import OnArrays
from tf_impl.device import on_device, pick_device
from tf_impl.weights import build_unet


class Network:
    """A network on its device; see core.inference.sampling.Network.

    Args:
        module: the U-Net, or a function with the same signature.
        device: TensorFlow's word for the device.
    """

    def __init__(self, module: Callable[..., Any], device: str = "/CPU:0") -> None:
        self.module, self.device = module, device

        def product(x: Any, t: Any, v: Any, given: dict[str, Any]) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                output = module(x, t, **given)
            return output, tape.gradient(output, x, v)

        # Compiled, since an eager call costs ten times as much at batch 1. After two batch sizes the graph takes any.
        compiled = {"reduce_retracing": True, "autograph": False}
        self.evaluate = tf.function(lambda x, t, given: module(x, t, **given), **compiled)
        self.product = tf.function(product, **compiled)

    def bind(self, condition: Condition | None = None) -> BoundNetwork:
        """The network conditioned on these arrays, whose first axis is the batch."""
        return BoundNetwork(self, condition)


class BoundNetwork(OnArrays):
    """A network conditioned on given arrays; see core.inference.on_arrays.OnArrays.

    The images are NumPy's between evaluations: a row of small TensorFlow operations takes a millisecond.
    """

    def __init__(self, network: Network, condition: Condition | None = None) -> None:
        super().__init__(network, condition or {})
        self.device = network.device
        with tf.device(self.device):
            self.given = {name: tf.constant(value) for name, value in self.condition.items()}

    def __call__(self, x: Any, t: Any) -> Any:
        """The output for x (B, H, W, C) and t, (B,) or scalar."""
        return self.network.evaluate(x, t, self.given)

    @on_device
    def evaluate(self, x: np.ndarray, t: np.ndarray | float) -> np.ndarray:
        """The output for arrays, where t may be a scalar; see core.inference.sampling.BoundNetwork."""
        output: np.ndarray = self(tf.constant(x), tf.constant(t, x.dtype)).numpy()
        return output.astype(x.dtype, copy=False)

    @on_device
    def vector_jacobian(self, x: np.ndarray, t: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The output, and v^T d output / d x."""
        output, product = self.network.product(tf.constant(x), tf.constant(t), tf.constant(v), self.given)
        return output.numpy(), product.numpy()


def make_network(
    model: ModelConfig, weights: Mapping[str, np.ndarray], dtype: str = "float32", device: str = "auto"
) -> Network:
    """The network with given weights, in evaluation mode.

    Args:
        model: its configuration.
        weights: every parameter by canonical name (OIHW).
        dtype: float32, float64, or bf16: float32 with convolutions and products in bfloat16.
        device: where to evaluate it; see pick_device().
    """
    place = pick_device(device, dtype)
    with tf.device(place):
        return Network(build_unet(model, weights, "mixed_bfloat16" if dtype == "bf16" else dtype), place)
