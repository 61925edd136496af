"""The executor of sampling tables over the network. Twin: torch_impl/sampler.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from core.config import ModelConfig
from core.diffusion.table import Edit, Row, SamplingTable, quantile_position
from core.inference.conditioning import Condition
from tf_impl.weights import build_unet


class Sampler:
    """Runs sampling tables; see core.inference.sampling.Sampler for shapes.

    Args:
        network: the U-Net, or any function with its signature.
    """

    def __init__(self, network: Callable[..., Any]) -> None:
        self.network = network
        # Compiled: an eager call costs ten times as much at batch 1. A second batch size makes the batch dimension free.
        self.evaluate = tf.function(lambda x, t, given: network(x, t, **given), reduce_retracing=True, autograph=False)

    def __call__(
        self,
        table: SamplingTable,
        x_T: np.ndarray,
        noise: Callable[[int], np.ndarray],
        condition: Condition | None = None,
        callback: Callable[[int, np.ndarray], None] | None = None,
        edit: Edit | None = None,
        weak: Condition | None = None,
        guide: Sampler | None = None,
    ) -> np.ndarray:
        """Run a table: (B, H, W, C) noise in, (B, H, W, C) images out."""
        given, low = self.tensors(condition), self.tensors(weak)
        state: list[Any] = [table.start * tf.constant(x_T)]
        channels = x_T.shape[-1]
        for index, row in enumerate(table.rows):
            t = tf.constant(row.t, x_T.dtype)
            output = tf.cast(self.evaluate(state[0], t, given), x_T.dtype)
            predicted = output[..., :channels]
            if row.guidance != 1:
                other = tf.cast((guide or self).evaluate(state[0], t, low)[..., :channels], x_T.dtype)
                predicted = other + row.guidance * (predicted - other)
            raw = row.p * state[0] + row.q * predicted
            x_0 = clipped(table, raw)
            entries = [*state, x_0, raw]
            state = [sum(float(m) * e for m, e in zip(line, entries, strict=True) if m != 0) for line in row.matrix]
            if row.s != 0:
                state[0] = state[0] + deviation(row, output[..., channels:]) * tf.constant(noise(index))
            if edit is not None:
                state[0] = tf.constant(edit(index, state[0].numpy()))
            if callback is not None:
                callback(index, x_0.numpy())
        return state[0].numpy()

    def tensors(self, condition: Condition | None) -> dict[str, Any]:
        """A condition's arrays as tensors."""
        return {name: tf.constant(value) for name, value in (condition or {}).items()}


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


def make_sampler(config: ModelConfig, weights: Mapping[str, np.ndarray], dtype: str = "float32") -> Sampler:
    """The executor over a network with given weights, on a GPU where there is one."""
    return Sampler(build_unet(config, weights, dtype))
