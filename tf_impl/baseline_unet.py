"""The baseline network as a `keras.Model`, NHWC, in Keras layers and keras.ops only. Twin: torch_impl/baseline_unet.py.

Attributes have the names of the original's state_dict. A layer without weights is a function in their lists.
Source: dome272/Diffusion-Models-pytorch, modules.py. There the size is fixed to 64 x 64.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from core.config import ModelConfig
from core.config.recipes import from_dict, to_dict
from core.networks.baseline import BASELINE_TIME_CHANNELS, HEADS, NORM_EPS, baseline_plan, bilinear_matrix
from core.networks.specs import time_frequencies
from tf_impl.layers import GroupNorm, conv, gelu, linear


def _plain_conv(c_in: int, c_out: int, dtype: Any) -> keras.layers.Conv2D:
    """A 3x3 convolution without bias, built."""
    layer = keras.layers.Conv2D(c_out, 3, padding="same", use_bias=False, kernel_initializer="zeros", dtype=dtype)
    layer.build((None, None, None, c_in))
    return layer


def _layer_norm(channels: int, dtype: Any) -> keras.layers.LayerNormalization:
    """A LayerNorm over the channels, built. It computes in the weights' precision, as GroupNorm does."""
    precision = keras.DTypePolicy(dtype).variable_dtype
    layer = keras.layers.LayerNormalization(epsilon=NORM_EPS, dtype=precision)
    layer.build((None, None, channels))
    return layer


def _chain(layers: list[Any], x: Any) -> Any:
    """Apply layers and functions one after another."""
    for layer in layers:
        x = layer(x)
    return x


def _max_pool(x: Any) -> Any:
    """Max pooling of 2x2 pixels."""
    return ops.max_pool(x, 2, strides=2, padding="valid", data_format="channels_last")


def upsample(x: Any) -> Any:
    """Bilinear upsampling by 2, with corners aligned: two matrix products, as keras.ops.image.resize cannot do it."""
    H, W, C = x.shape[1:]
    rows, columns = (ops.convert_to_tensor(bilinear_matrix(size), x.dtype) for size in (H, W))
    x = ops.matmul(rows, ops.reshape(x, (-1, H, W * C)))  # (B, 2 H, W C)
    return ops.matmul(columns, ops.reshape(x, (-1, 2 * H, W, C)))


class DoubleConv(keras.layers.Layer):
    """Two 3x3 convolutions, each normalised over (H, W, C); with `residual`, gelu of their sum with the input."""

    def __init__(
        self, c_in: int, c_out: int, c_mid: int | None = None, residual: bool = False, dtype: Any = None
    ) -> None:
        super().__init__(dtype=dtype)
        c_mid = c_mid or c_out
        self.residual = residual
        self.double_conv = [
            _plain_conv(c_in, c_mid, dtype),
            GroupNorm(1, c_mid, NORM_EPS, dtype),
            gelu,
            _plain_conv(c_mid, c_out, dtype),
            GroupNorm(1, c_out, NORM_EPS, dtype),
        ]
        self.built = True

    def call(self, x: Any) -> Any:
        h = ops.cast(_chain(self.double_conv, x), self.compute_dtype)  # a norm ends in the weights' precision
        return gelu(x + h) if self.residual else h


def _embedding_layer(channels: int, dtype: Any) -> list[Any]:
    """Projection of the time embedding to the channels of a level: (B, 256) -> (B, channels)."""
    return [ops.silu, linear(BASELINE_TIME_CHANNELS, channels, dtype)]


class Down(keras.layers.Layer):
    """Max pooling of 2x2 pixels and two double convolutions; the time embedding is added."""

    def __init__(self, c_in: int, c_out: int, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.maxpool_conv = [
            _max_pool,
            DoubleConv(c_in, c_in, residual=True, dtype=dtype),
            DoubleConv(c_in, c_out, dtype=dtype),
        ]
        self.emb_layer = _embedding_layer(c_out, dtype)
        self.built = True

    def call(self, x: Any, time: Any) -> Any:
        return _chain(self.maxpool_conv, x) + _chain(self.emb_layer, time)[:, None, None, :]


class Up(keras.layers.Layer):
    """Upsampling, concatenation to the skip, and two double convolutions; the time embedding is added."""

    def __init__(self, c_in: int, c_out: int, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.conv = [
            DoubleConv(c_in, c_in, residual=True, dtype=dtype),
            DoubleConv(c_in, c_out, c_in // 2, dtype=dtype),
        ]
        self.emb_layer = _embedding_layer(c_out, dtype)
        self.built = True

    def call(self, x: Any, skip: Any, time: Any) -> Any:
        x = ops.concatenate([skip, upsample(x)], axis=-1)
        return _chain(self.conv, x) + _chain(self.emb_layer, time)[:, None, None, :]


class MultiheadAttention(keras.layers.Layer):
    """Self-attention of (B, N, C); `kernel` (C, 3 C) and `bias` are the projection to queries, keys and values."""

    def __init__(self, channels: int, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.kernel = self.add_weight(shape=(channels, 3 * channels), initializer="zeros", name="kernel")
        self.bias = self.add_weight(shape=(3 * channels,), initializer="zeros", name="bias")
        self.out_proj = linear(channels, channels, dtype)
        self.built = True

    def call(self, x: Any) -> Any:
        N, C = x.shape[1:]
        h = ops.matmul(x, self.kernel) + self.bias
        h = ops.reshape(h, (-1, N, 3, HEADS, C // HEADS))
        q, k, v = ops.unstack(ops.transpose(h, (2, 0, 3, 1, 4)), 3)  # each (B, heads, N, C / heads)
        # Keras has no fused attention on TensorFlow, so the weights are kept in memory: 268 MB an image at 64 x 64,
        # in float32. A larger training.accumulate makes the micro-batch smaller.
        scores = ops.matmul(q * (C // HEADS) ** -0.5, ops.transpose(k, (0, 1, 3, 2)))  # (B, heads, N, N)
        weights = ops.cast(ops.softmax(ops.cast(scores, self.variable_dtype), axis=-1), v.dtype)
        h = ops.reshape(ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3)), (-1, N, C))
        return self.out_proj(h)


class SelfAttention(keras.layers.Layer):
    """Attention over the pixels and a feed-forward network, each behind a LayerNorm and with a residual connection."""

    def __init__(self, channels: int, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.mha = MultiheadAttention(channels, dtype)
        self.ln = _layer_norm(channels, dtype)
        self.ff_self = [
            _layer_norm(channels, dtype),
            linear(channels, channels, dtype),
            gelu,
            linear(channels, channels, dtype),
        ]
        self.built = True

    def call(self, x: Any) -> Any:
        H, W, C = x.shape[1:]
        h = ops.reshape(x, (-1, H * W, C))
        h = h + self.mha(self.ln(h))
        h = h + _chain(self.ff_self, h)
        return ops.reshape(h, (-1, H, W, C))


@keras.saving.register_keras_serializable("diptych")
class BaselineUNet(keras.Model):
    """The baseline U-Net.

    Args:
        config: configuration with architecture baseline.
        dtype: float32, float64, or a Keras dtype policy such as mixed_bfloat16.
    """

    def __init__(self, config: ModelConfig, dtype: Any = "float32") -> None:
        super().__init__(dtype=dtype, autocast=False)  # each layer casts its inputs; t keeps its precision
        self.config = config
        self.frequencies = time_frequencies(config).astype(self.variable_dtype)
        for stage in baseline_plan(config):
            if stage.kind == "attention":
                layer: keras.layers.Layer = SelfAttention(stage.in_channels, dtype)
            else:
                kind = {"double_conv": DoubleConv, "down": Down, "up": Up}[stage.kind]
                layer = kind(stage.in_channels, stage.out_channels, dtype=dtype)
            setattr(self, stage.name, layer)
        self.outc = conv(config.block_out_channels[0], config.out_channels, 1, dtype)
        classes = config.num_class_embeds
        embedding = (
            keras.layers.Embedding(classes, BASELINE_TIME_CHANNELS, dtype=self.variable_dtype) if classes else None
        )
        self.label_emb = embedding  # in the precision of the sinusoids that it is added to
        if self.label_emb is not None:
            self.label_emb.build()
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """The network's entry in a .keras file."""
        return {"config": to_dict(self.config), "dtype": self.dtype_policy.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> BaselineUNet:
        """The network that a .keras file describes, without its weights."""
        return cls(from_dict(ModelConfig, config["config"], "model"), config["dtype"])

    def call(self, x: Any, t: Any = None, labels: Any = None, training: bool = False) -> Any:
        """Evaluate the network.

        Args:
            x: (B, H, W, C), in [-1, 1] plus noise; or the tuple (x, t) or (x, t, labels), as keras's `fit` passes it.
            t: (B,) or scalar, 0-based timestep, which may be fractional.
            labels: (B,) int64 classes, for a class-conditional network only.
            training: unused here, since no layer differs in training; every network takes it.
        Returns:
            (B, H, W, C).
        Raises:
            ValueError: the size does not fit, or labels are given or missing contrary to the configuration.
        """
        if isinstance(x, tuple | list):
            x, t, labels = (*x, None)[:3]
        self.config.check_size(*x.shape[1:3])
        self.config.check_condition(labels)
        t = ops.broadcast_to(t, (ops.shape(x)[0],))
        angle = ops.cast(t, self.variable_dtype)[:, None] * self.frequencies
        time = ops.concatenate((ops.sin(angle), ops.cos(angle)), axis=1)  # (B, 256)
        if self.label_emb is not None:
            time = time + self.label_emb(labels)
        x1 = self.inc(x)
        x2 = self.sa1(self.down1(x1, time))
        x3 = self.sa2(self.down2(x2, time))
        x = self.sa3(self.down3(x3, time))
        x = self.bot3(self.bot2(self.bot1(x)))
        x = self.sa4(self.up1(x, x3, time))
        x = self.sa5(self.up2(x, x2, time))
        x = self.sa6(self.up3(x, x1, time))
        return self.outc(x)
