"""The network with a fixed condition, and the loop that runs a sampling table over it. Twin: torch_impl/sampler.py."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from core.config import ModelConfig
from core.inference.conditioning import Condition
from core.inference.on_arrays import OnArrays
from core.inference.sampling import COMPILED_FROM, Vector
from tf_impl.device import on_device, pick_device
from tf_impl.weights import build_unet

logger = logging.getLogger(__name__)


class Network:
    """A network on its device; see core.inference.sampling.Network.

    Args:
        module: the U-Net, or a function with the same signature.
        device: TensorFlow's word for the device.
        compiled: whether XLA compiles the network, once for each batch shape. None does so on an NVIDIA GPU, for
            COMPILED_FROM evaluations and more. Where it fails, a line in the log says so, and sampling goes on.
    """

    def __init__(self, module: Callable[..., Any], device: str = "/CPU:0", compiled: bool | None = None) -> None:
        self.module, self.device, self.compiled = module, device, compiled
        self.asynchronous = "GPU" in device

        def product(x: Any, t: Any, v: Any, given: dict[str, Any]) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                output = tf.cast(module(x, t, **given), x.dtype)  # from bfloat16
            return output, tape.gradient(output, x, v)

        # Graphs, since an eager call costs ten times as much at batch 1. After two batch sizes a graph takes any.
        graph = {"reduce_retracing": True, "autograph": False}
        self.evaluate = tf.function(lambda x, t, given: module(x, t, **given), **graph)
        self.product = tf.function(product, **graph)
        self.fast = tf.function(lambda x, t, given: module(x, t, **given), autograph=False, jit_compile=True)

    def bind(self, condition: Condition | None = None, evaluations: int = 0) -> BoundNetwork:
        """The network conditioned on these arrays, whose first axis is the batch."""
        return BoundNetwork(self, condition, evaluations)

    def pays(self, evaluations: int) -> bool:
        """Whether the network is compiled for this number of evaluations of one batch shape."""
        return self.asynchronous and evaluations >= COMPILED_FROM if self.compiled is None else self.compiled

    @on_device
    def noise(self, key: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Standard normal noise of a shape (B, H, W, C), drawn on the device."""
        seed = tf.constant([key >> 32, key & 0xFFFFFFFF], tf.int64)
        drawn: np.ndarray = tf.random.stateless_normal(shape, seed, dtype=dtype, alg="philox").numpy()
        return drawn


class BoundNetwork(OnArrays):
    """A network conditioned on given arrays; see core.inference.on_arrays.OnArrays.

    The images are NumPy's between evaluations: a row of small TensorFlow operations takes a millisecond.
    """

    def __init__(self, network: Network, condition: Condition | None = None, evaluations: int = 0) -> None:
        super().__init__(network, condition or {}, evaluations)
        self.device = network.device
        with tf.device(self.device):
            self.given = {name: tf.constant(value) for name, value in self.condition.items()}

    def __call__(self, x: Any, t: Any) -> Any:
        """The output for x (B, H, W, C) and t, (B,) or scalar."""
        if self.network.pays(self.evaluations):
            try:
                return self.network.fast(x, t, self.given)
            except tf.errors.OpError as error:
                logger.warning("XLA failed, and the sampling goes on without it: %.300s", error)
                self.network.compiled = False
        return self.network.evaluate(x, t, self.given)

    @on_device
    def evaluate(self, x: np.ndarray, t: np.ndarray | float) -> np.ndarray:
        """The output for arrays, where t may be a scalar; see core.inference.sampling.BoundNetwork."""
        output: np.ndarray = self(tf.constant(x), tf.constant(t, x.dtype)).numpy()
        return output.astype(x.dtype, copy=False)

    @on_device
    def vector_jacobian(self, x: np.ndarray, t: np.ndarray, v: Vector) -> tuple[np.ndarray, np.ndarray]:
        """The output, and v^T d output / d x; v may be a function of the output."""
        point, time = tf.constant(x), tf.constant(t)
        if callable(v):
            with tf.GradientTape() as tape:
                tape.watch(point)
                output = tf.cast(self.network.evaluate(point, time, self.given), point.dtype)
            found = output.numpy()
            return found, tape.gradient(output, point, tf.constant(v(found))).numpy()
        output, product = self.network.product(point, time, tf.constant(v), self.given)
        return output.numpy(), product.numpy()


def make_network(
    model: ModelConfig,
    weights: Mapping[str, np.ndarray],
    dtype: str = "float32",
    device: str = "auto",
    compiled: bool | None = None,
) -> Network:
    """The network with given weights, in evaluation mode.

    Args:
        model: its configuration.
        weights: every parameter by canonical name (OIHW).
        dtype: float32, float64, or bf16: float32 with convolutions and products in bfloat16.
        device: where to evaluate it; see pick_device().
        compiled: as in Network.
    """
    place = pick_device(device, dtype)
    with tf.device(place):
        return Network(build_unet(model, weights, "mixed_bfloat16" if dtype == "bf16" else dtype), place, compiled)
