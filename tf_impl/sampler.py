"""The network with a fixed condition, and the loop that runs a sampling table over it. Twin: torch_impl/sampler.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from core.config import ModelConfig
from core.diffusion.table import After, Row, SamplingTable, quantile_position
from core.inference.conditioning import Condition
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


class BoundNetwork:
    """A network conditioned on given arrays; see core.inference.sampling.BoundNetwork.

    Args:
        network: the network.
        condition: arrays by the network's keyword; their first axis is the batch.
    """

    def __init__(self, network: Network, condition: Condition | None = None) -> None:
        self.network, self.device = network, network.device
        with tf.device(self.device):
            self.given = {name: tf.constant(value) for name, value in (condition or {}).items()}

    def __call__(self, x: Any, t: Any) -> Any:
        """The output for x (B, H, W, C) and t, (B,) or scalar."""
        return self.network.evaluate(x, t, self.given)

    @on_device
    def run(
        self,
        table: SamplingTable,
        x_T: np.ndarray,
        noise: Callable[[int], np.ndarray],
        weak: BoundNetwork | None = None,
        after: After | None = None,
    ) -> np.ndarray:
        """Run a sampling table from the noise x_T (B, H, W, C) to images (B, H, W, C)."""
        channels = x_T.shape[-1]
        state: list[Any] = [table.start * tf.constant(x_T)]
        for index, row in enumerate(table.rows):
            t = tf.constant(row.t, x_T.dtype)
            output = tf.cast(self(state[0], t), x_T.dtype)
            predicted = output[..., :channels]
            if weak is not None and row.guidance != 1:
                other = tf.cast(weak(state[0], t)[..., :channels], x_T.dtype)
                predicted = other + row.guidance * (predicted - other)
            raw = row.p * state[0] + row.q * predicted
            x_0 = clipped(table, raw)
            entries = [*state, x_0, raw]
            state = [sum(float(m) * e for m, e in zip(line, entries, strict=True) if m != 0) for line in row.matrix]
            if row.s != 0:
                state[0] = state[0] + deviation(row, output[..., channels:]) * tf.constant(noise(index))
            if after is not None:
                state[0] = tf.constant(after(index, state[0].numpy(), x_0.numpy()))
        images: np.ndarray = state[0].numpy()
        return images

    @on_device
    def evaluate(self, x: np.ndarray, t: np.ndarray) -> np.ndarray:
        """The output for arrays; see core.inference.sampling.BoundNetwork."""
        output: np.ndarray = self(tf.constant(x), tf.constant(t)).numpy()
        return output

    @on_device
    def vector_jacobian(self, x: np.ndarray, t: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The output, and v^T d output / d x."""
        output, product = self.network.product(tf.constant(x), tf.constant(t), tf.constant(v), self.given)
        return output.numpy(), product.numpy()


def clipped(table: SamplingTable, raw: Any) -> Any:
    """See core.diffusion.table.clipped."""
    if not table.clip:
        return raw
    if not table.quantile:
        return tf.clip_by_value(raw, -1, 1)
    size = tf.sort(tf.abs(tf.reshape(raw, (raw.shape[0], -1))), axis=1)
    low, weight = quantile_position(table.quantile, size.shape[1])
    limit = (1 - weight) * size[:, low] + weight * size[:, min(low + 1, size.shape[1] - 1)]
    limit = tf.maximum(limit, 1)[:, None, None, None]
    return tf.clip_by_value(raw, -limit, limit) / limit


def deviation(row: Row, fraction: Any) -> Any:
    """See core.diffusion.table.deviation."""
    if row.s_large is None:
        return row.s
    return tf.exp(math.log(row.s) + (fraction + 1) / 2 * math.log(row.s_large / row.s))


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
