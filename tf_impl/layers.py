"""The U-Net's layers, NHWC, in Keras layers and keras.ops only. Twin: torch_impl/layers.py.

They have diffusers' attribute names.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from core.config import ModelConfig
from core.networks.specs import time_frequencies
from core.networks.unet import UPSAMPLING_TAPS, AttentionPlan, BlockPlan, ConvPlan, ResnetPlan
from tf_impl.kernel import group_norm


def gelu(x: Any) -> Any:
    """The exact GELU; keras.ops.gelu(approximate=False) errs by 5e-9 in float64."""
    return 0.5 * x * (1.0 + ops.erf(x * (1.0 / math.sqrt(2.0))))


ACTIVATIONS = {"silu": ops.silu, "gelu": gelu}


def conv(c_in: int, c_out: int, size: int, dtype: Any, stride: int = 1) -> keras.layers.Conv2D:
    """A convolution, built. With stride 2 the caller pads, since SAME pads (0, 1) where PyTorch pads (1, 1)."""
    padding = "valid" if stride > 1 else "same"
    layer = keras.layers.Conv2D(c_out, size, stride, padding, kernel_initializer="zeros", dtype=dtype)
    layer.build((None, None, None, c_in))
    return layer


def pixel_unshuffle(x: Any, patch: int) -> Any:
    """Squares of patch pixels a side as channels, in PyTorch's order: (B, H, W, C) -> (B, H / p, W / p, C p^2)."""
    if patch == 1:
        return x
    _, H, W, C = x.shape
    x = ops.reshape(x, (-1, H // patch, patch, W // patch, patch, C))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 5, 2, 4)), (-1, H // patch, W // patch, C * patch**2))


def pixel_shuffle(x: Any, patch: int) -> Any:
    """The inverse of pixel_unshuffle(): (B, H, W, C) -> (B, H p, W p, C / p^2)."""
    if patch == 1:
        return x
    _, H, W, C = x.shape
    x = ops.reshape(x, (-1, H, W, C // patch**2, patch, patch))
    return ops.reshape(ops.transpose(x, (0, 1, 4, 2, 5, 3)), (-1, H * patch, W * patch, C // patch**2))


def linear(c_in: int, c_out: int, dtype: Any) -> keras.layers.Dense:
    """A linear layer, built."""
    layer = keras.layers.Dense(c_out, kernel_initializer="zeros", dtype=dtype)
    layer.build((None, c_in))
    return layer


class GroupNorm(keras.layers.Layer):
    """Group normalisation over (H, W, C / groups). It takes means of channels first: 1.4x faster than Keras's layer."""

    def __init__(self, groups: int, channels: int, eps: float, dtype: Any) -> None:
        # The norm computes in the weights' precision, since statistics in bfloat16 are too coarse.
        super().__init__(dtype=keras.DTypePolicy(dtype).variable_dtype)
        self.groups, self.channels, self.eps = groups, channels, eps
        self.gamma = self.add_weight(shape=(channels,), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(channels,), initializer="zeros", name="beta")
        self.built = True

    def call(self, x: Any) -> Any:
        mean = self._over_group(ops.mean(x, axis=(1, 2)))  # (B, C)
        # E[x^2] - mean^2 cancels where |mean| >> std; deviations from the mean do not. The mean's contribution to the
        # gradient is zero here, so stop_gradient() saves its backward pass.
        centre = ops.stop_gradient(mean)[:, None, None, :]
        variance = self._over_group(ops.mean(ops.square(x - centre), axis=(1, 2)))
        scale = self.gamma * ops.rsqrt(variance + self.eps)  # (B, C)
        shift = self.beta - mean * scale
        return x * scale[:, None, None, :] + shift[:, None, None, :]

    def _over_group(self, x: Any) -> Any:
        """(B, C) -> (B, C): the mean of each channel's group."""
        size = self.channels // self.groups
        mean = ops.mean(ops.reshape(x, (-1, self.groups, size)), axis=2, keepdims=True)
        return ops.reshape(mean * np.ones(size, self.variable_dtype), (-1, self.channels))


class TimeEmbedding(keras.layers.Layer):
    """Sinusoids of t, then two linear layers: (B,) -> (B, time_channels)."""

    def __init__(self, config: ModelConfig, time_channels: int, dtype: Any) -> None:
        super().__init__(dtype=dtype, autocast=False)  # bfloat16 cannot tell all timesteps apart
        self.flip = config.flip_sin_to_cos
        self.frequencies = time_frequencies(config).astype(self.variable_dtype)
        self.linear_1 = linear(2 * len(self.frequencies), time_channels, dtype)
        self.linear_2 = linear(time_channels, time_channels, dtype)

    def call(self, t: Any) -> Any:
        angle = ops.cast(t, self.variable_dtype)[:, None] * self.frequencies  # (B, first / 2)
        parts = (ops.cos(angle), ops.sin(angle)) if self.flip else (ops.sin(angle), ops.cos(angle))
        return self.linear_2(ops.silu(self.linear_1(ops.concatenate(parts, axis=1))))


class VectorEmbedding(keras.layers.Layer):
    """The condition's parameters and `keep`, then two linear layers: (B, P) and (B,) -> (B, time_channels)."""

    def __init__(self, channels: int, time_channels: int, dtype: Any) -> None:
        super().__init__(dtype=dtype)
        self.linear_1 = linear(channels + 1, time_channels, dtype)
        self.linear_2 = linear(time_channels, time_channels, dtype)

    def call(self, vector: Any, keep: Any) -> Any:
        keep = ops.cast(keep, self.compute_dtype)[:, None]
        x = ops.concatenate([ops.cast(vector, self.compute_dtype) * keep, keep], axis=1)  # (B, P + 1)
        return self.linear_2(ops.silu(self.linear_1(x)))


class Upsample(keras.layers.Layer):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution where `channels` is given."""

    def __init__(self, channels: int | None = None, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.conv = conv(channels, channels, 3, dtype) if channels is not None else None

    def call(self, x: Any) -> Any:
        if self.conv is None:
            return ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)
        # Each of the four pixels that a pixel becomes sees 2x2 pixels of x. So one transposed convolution with 16
        # weights does both, in less than half the operations of 9 weights on four times the pixels.
        kernel = ops.cast(self.conv.kernel, self.compute_dtype)
        kernel = ops.einsum("ai,bj,ijcd->abdc", *[ops.cast(UPSAMPLING_TAPS, self.compute_dtype)] * 2, kernel)
        y = ops.conv_transpose(ops.cast(x, self.compute_dtype), kernel, strides=2, padding="same")
        return y + ops.cast(self.conv.bias, self.compute_dtype)


class Downsample(keras.layers.Layer):
    """A stride-2 3x3 convolution where `channels` is given, else the mean of 2x2 pixels."""

    def __init__(self, channels: int | None = None, padding: int = 1, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.padding = padding
        self.conv = conv(channels, channels, 3, dtype, stride=2) if channels is not None else None

    def call(self, x: Any) -> Any:
        if self.conv is None:
            return ops.average_pool(x, 2, strides=2, padding="valid", data_format="channels_last")
        # padding 0 is that of the original DDPM: at right and bottom only.
        before = self.padding
        return self.conv(ops.pad(x, ((0, 0), (before, 1), (before, 1), (0, 0))))


class Identity(keras.layers.Layer):
    """Return x unchanged."""

    def call(self, x: Any) -> Any:
        return x


class ResnetBlock(keras.layers.Layer):
    """Two normalised 3x3 convolutions, with the time embedding between them and a shortcut around them."""

    def __init__(self, plan: ResnetPlan, config: ModelConfig, time_channels: int, dtype: Any) -> None:
        super().__init__(dtype=dtype)
        c_in, c_out, groups, eps = plan.in_channels, plan.out_channels, config.norm_num_groups, config.norm_eps
        self.scale_shift = config.resnet_time_scale_shift == "scale_shift"
        self.scale_factor = plan.scale_factor
        self.activation = ACTIVATIONS[config.act_fn]
        self.norm1 = GroupNorm(groups, c_in, eps, dtype)
        self.conv1 = conv(c_in, c_out, 3, dtype)
        self.time_emb_proj = linear(time_channels, 2 * c_out if self.scale_shift else c_out, dtype)
        self.norm2 = GroupNorm(groups, c_out, eps, dtype)
        self.dropout = keras.layers.Dropout(config.dropout, dtype=dtype)
        self.conv2 = conv(c_out, c_out, 3, dtype)
        self.resample = {"up": Upsample, "down": Downsample, None: Identity}[plan.resample](dtype=dtype)
        self.conv_shortcut = conv(c_in, c_out, 1, dtype) if plan.has_shortcut else None
        # Dropout and Identity are never built. Without this line Keras traces every block again to look for variables.
        self.built = True

    def call(self, x: Any, time: Any, training: bool = False) -> Any:
        h = self.conv1(self.resample(group_norm(self.norm1, x, self.activation)))
        time = self.time_emb_proj(self.activation(time))
        if self.scale_shift:
            scale, shift = ops.split(time, 2, axis=-1)
            h = group_norm(self.norm2, h, self.activation, scale=scale, shift=shift)
        else:
            h = group_norm(self.norm2, h, self.activation, offset=time)
        h = self.conv2(self.dropout(h, training=training))
        x = self.resample(x)
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return x + h if self.scale_factor == 1 else (x + h) / self.scale_factor


class Attention(keras.layers.Layer):
    """Multi-head self-attention over the pixels, with a residual connection."""

    def __init__(self, plan: AttentionPlan, config: ModelConfig, dtype: Any) -> None:
        super().__init__(dtype=dtype)
        self.heads, self.scale_factor = plan.heads, plan.scale_factor
        self.group_norm = GroupNorm(plan.groups, plan.channels, config.norm_eps, dtype) if plan.groups else None
        self.to_q = linear(plan.channels, plan.channels, dtype)
        self.to_k = linear(plan.channels, plan.channels, dtype)
        self.to_v = linear(plan.channels, plan.channels, dtype)
        self.to_out = [linear(plan.channels, plan.channels, dtype)]
        self.built = True  # as in ResnetBlock: GroupNorm is never built

    def call(self, x: Any) -> Any:
        H, W, C = x.shape[1:]
        h = group_norm(self.group_norm, x) if self.group_norm is not None else x
        h = ops.reshape(h, (-1, H * W, C))
        q, k, v = (
            ops.transpose(ops.reshape(layer(h), (-1, H * W, self.heads, C // self.heads)), (0, 2, 1, 3))
            for layer in (self.to_q, self.to_k, self.to_v)  # (B, heads, HW, C / heads)
        )
        scores = ops.matmul(q * (C // self.heads) ** -0.5, ops.transpose(k, (0, 1, 3, 2)))  # (B, heads, HW, HW)
        weights = ops.cast(ops.softmax(ops.cast(scores, self.variable_dtype), axis=-1), v.dtype)
        h = ops.reshape(ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3)), (-1, H * W, C))
        h = ops.reshape(self.to_out[0](h), (-1, H, W, C)) + x
        return h if self.scale_factor == 1 else h / self.scale_factor


def resampler(plan: ResnetPlan | ConvPlan, config: ModelConfig, time_channels: int, dtype: Any) -> keras.layers.Layer:
    """The layer at the end of a level, which halves or doubles the image size."""
    if isinstance(plan, ResnetPlan):
        return ResnetBlock(plan, config, time_channels, dtype)
    if plan.resample == "up":
        return Upsample(plan.channels, dtype=dtype)
    return Downsample(plan.channels, config.downsample_padding, dtype=dtype)


class Block(keras.layers.Layer):
    """One level: residual blocks with or without attention, and a layer at its end that changes the image size."""

    def __init__(self, plan: BlockPlan, config: ModelConfig, time_channels: int, dtype: Any) -> None:
        super().__init__(dtype=dtype)
        self.resnets = [ResnetBlock(p, config, time_channels, dtype) for p in plan.resnets]
        self.attentions = [Attention(p, config, dtype) for p in plan.attentions]
        end = [] if plan.resampler is None else [resampler(plan.resampler, config, time_channels, dtype)]
        self.downsamplers = end if plan.name.startswith("down") else []
        self.upsamplers = end if plan.name.startswith("up") else []

    def resize(self, x: Any, time: Any, training: bool = False) -> Any:
        """Apply the layer at the level's end, which takes the time embedding where it is a residual block."""
        for layer in (*self.downsamplers, *self.upsamplers):
            x = layer(x, time, training=training) if isinstance(layer, ResnetBlock) else layer(x)
        return x
