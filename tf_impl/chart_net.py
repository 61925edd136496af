"""The network of chart coordinates as a `keras.Model`. Twin: torch_impl/chart_net.py.

Source: Peebles & Xie 2023, section 3.2 (adaLN-zero).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from core.config import ModelConfig
from core.config.recipes import from_dict, to_dict
from core.networks.chart import CHART_NORM_EPS
from tf_impl.layers import TimeEmbedding, VectorEmbedding, linear


def modulate(h: Any, shift: Any, scale: Any) -> Any:
    """Normalise each row (B, width) to mean 0 and variance 1, then scale and shift it."""
    centred = h - ops.mean(h, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
    return centred * ops.rsqrt(variance + CHART_NORM_EPS) * (1 + scale) + shift


class ChartBlock(keras.layers.Layer):
    """Two linear layers with a residual connection; the condition shifts, scales and gates them."""

    def __init__(self, width: int, dtype: Any) -> None:
        super().__init__(dtype=dtype)
        self.modulation = linear(width, 3 * width, dtype)
        self.linear_1 = linear(width, 2 * width, dtype)
        self.linear_2 = linear(2 * width, width, dtype)
        self.built = True

    def call(self, h: Any, condition: Any) -> Any:
        shift, scale, gate = ops.split(self.modulation(condition), 3, axis=-1)
        return h + gate * self.linear_2(ops.silu(self.linear_1(modulate(h, shift, scale))))


class ChartNorm(keras.layers.Layer):
    """The last normalisation, shifted and scaled by the condition."""

    def __init__(self, width: int, dtype: Any) -> None:
        super().__init__(dtype=dtype)
        self.modulation = linear(width, 2 * width, dtype)
        self.built = True

    def call(self, h: Any, condition: Any) -> Any:
        shift, scale = ops.split(self.modulation(condition), 2, axis=-1)
        return modulate(h, shift, scale)


@keras.saving.register_keras_serializable("diptych")
class ChartNet(keras.Model):
    """A multilayer perceptron conditioned on the timestep, and optionally on classes or parameters.

    Args:
        config: the network.
        dtype: float32, float64, or a Keras dtype policy such as mixed_bfloat16.
    """

    def __init__(self, config: ModelConfig, dtype: Any = "float32") -> None:
        super().__init__(dtype=dtype, autocast=False)  # each layer casts its inputs; t keeps its precision
        width = config.block_out_channels[0]
        self.config = config
        self.time_embedding = TimeEmbedding(config, width, dtype)
        classes = config.num_class_embeds
        self.class_embedding = keras.layers.Embedding(classes, width, dtype=dtype) if classes else None
        if self.class_embedding is not None:
            self.class_embedding.build()
        numbers = config.vector_channels
        self.vector_embedding = VectorEmbedding(numbers, width, dtype) if numbers else None
        self.proj_in = linear(config.in_channels, width, dtype)
        self.blocks = [ChartBlock(width, dtype) for _ in range(config.layers_per_block)]
        self.norm_out = ChartNorm(width, dtype)
        self.proj_out = linear(width, config.out_channels, dtype)
        self.built = True  # every layer has made its variables

    def get_config(self) -> dict[str, Any]:
        """The network's entry in a .keras file."""
        return {"config": to_dict(self.config), "dtype": self.dtype_policy.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ChartNet:
        """The network that a .keras file describes, without its weights."""
        return cls(from_dict(ModelConfig, config["config"], "model"), config["dtype"])

    def call(
        self,
        x: Any,
        t: Any = None,
        labels: Any = None,
        vector: Any = None,
        keep: Any = None,
        training: bool = False,
    ) -> Any:
        """Evaluate the network.

        Args:
            x: (B, 1, 1, D) coordinates plus noise; or a dict or list of the arguments, as from a .keras file.
            t: (B,) or scalar, 0-based timestep, which may be fractional.
            labels: (B,) integer classes, for a class-conditional network only.
            vector: (B, P) parameters, standardised as in training, for a network with vector_channels = P only.
            keep: (B,) 1 where the vector counts, 0 where the input is unconditional; None means all 1.
            training: no layer depends on it.
        Returns:
            (B, 1, 1, D), or twice as many channels with a learned variance.
        Raises:
            ValueError: the size is not 1 x 1, or a condition is given or missing contrary to the configuration.
        """
        if isinstance(x, dict):
            return self.call(**x, training=training)
        if isinstance(x, tuple | list):
            x, t, labels = (*x, None)[:3]
        self.config.check_size(*x.shape[1:3])
        self.config.check_condition(labels, vector)
        c = self.time_embedding(ops.broadcast_to(t, (ops.shape(x)[0],)))  # (B, width)
        if self.class_embedding is not None:
            c = c + self.class_embedding(labels)
        if self.vector_embedding is not None:
            c = c + self.vector_embedding(vector, ops.ones_like(vector[:, 0]) if keep is None else keep)
        c = ops.silu(c)
        h = self.proj_in(ops.reshape(x, (-1, self.config.in_channels)))
        for block in self.blocks:
            h = block(h, c)
        return self.proj_out(self.norm_out(h, c))[:, None, None, :]
