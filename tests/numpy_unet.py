"""The DDPM U-Net in float64 NumPy, by the formulas: the oracle of both twins' layers and networks.

Written from the papers and diffusers' documentation of its keys, by parameter name; it shares no line with the twins
and does not use core.networks.unet. NHWC images; weights in the canonical layout (OIHW, (out, in)).
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from core.config import ModelConfig

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

ERF = np.vectorize(math.erf, otypes=[np.float64])


def silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def gelu(x: Array) -> Array:
    return np.asarray(x / 2 * (1 + ERF(x / math.sqrt(2))))


ACTIVATIONS = {"silu": silu, "gelu": gelu}


def to_patches(x: Array, p: int) -> Array:
    """Channel p^2 c + p i + j of a pixel is pixel (i, j) of channel c in its square."""
    return np.stack([x[:, i::p, j::p, c] for c in range(x.shape[-1]) for i in range(p) for j in range(p)], axis=-1)


def from_patches(x: Array, p: int) -> Array:
    B, H, W, C = x.shape
    y = np.empty((B, p * H, p * W, C // p**2))
    for k in range(C):
        c, i, j = k // p**2, k % p**2 // p, k % p
        y[:, i::p, j::p, c] = x[..., k]
    return y


def conv2d(x: Array, weight: Array, bias: Array, stride: int = 1, before: int = 0, after: int = 0) -> Array:
    """Cross-correlation by explicit loops over the kernel; zero padding before and after each axis."""
    x = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    out_channels, _, rows, columns = weight.shape
    height, width = (x.shape[1] - rows) // stride + 1, (x.shape[2] - columns) // stride + 1
    y = np.zeros((len(x), height, width, out_channels)) + bias
    for i in range(rows):
        for j in range(columns):
            part = x[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
            y += part @ weight[:, :, i, j].T
    return y


def group_norm(x: Array, groups: int, weight: Array, bias: Array, eps: float) -> Array:
    y = np.empty(x.shape)
    size = x.shape[-1] // groups
    for g in range(groups):
        part = x[..., g * size : (g + 1) * size].astype(np.float64)
        mean = part.mean(axis=(1, 2, 3), keepdims=True)
        variance = ((part - mean) ** 2).mean(axis=(1, 2, 3), keepdims=True)
        y[..., g * size : (g + 1) * size] = (part - mean) / np.sqrt(variance + eps)
    return y * weight + bias


def attention(x: Array, q: Function, k: Function, v: Function, heads: int) -> Array:
    """Softmax(q k^T / sqrt(d)) v over the pixels, a head and an image at a time; q, k and v are functions of (N, C)."""
    B, H, W, C = x.shape
    d = C // heads
    out = np.empty((B, H * W, C))
    for b in range(B):
        tokens = x[b].reshape(H * W, C)
        Q, K, V = q(tokens), k(tokens), v(tokens)
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            scores = Q[:, part] @ K[:, part].T / math.sqrt(d)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[b, :, part] = weights / weights.sum(axis=1, keepdims=True) @ V[:, part]
    return out.reshape(B, H, W, C)


def nearest_x2(x: Array) -> Array:
    y = np.empty((len(x), 2 * x.shape[1], 2 * x.shape[2], x.shape[3]))
    for i in range(2):
        for j in range(2):
            y[:, i::2, j::2] = x
    return y


def mean_2x2(x: Array) -> Array:
    return np.asarray(x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def sinusoids(t: Array, channels: int, flip: bool, shift: float) -> Array:
    """Vaswani et al. 2017, section 3.5, one number at a time."""
    half = channels // 2
    rows = []
    for value in np.atleast_1d(t):
        angles = [float(value) * 10_000.0 ** (-i / (half - shift)) for i in range(half)]
        sines, cosines = [math.sin(a) for a in angles], [math.cos(a) for a in angles]
        rows.append(cosines + sines if flip else sines + cosines)
    return np.array(rows)


class NumpyUNet:
    """The network that a ModelConfig and weights by canonical name describe; call it with (x, t) and its condition."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, np.ndarray]) -> None:
        self.config = config
        self.w = {name: value.astype(np.float64) for name, value in weights.items()}
        self.activation = ACTIVATIONS[config.act_fn]

    def conv(self, name: str, x: Array, **padding: int) -> Array:
        size = self.w[f"{name}.weight"].shape[-1]
        padding = padding or {"before": size // 2, "after": size // 2}
        return conv2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], **padding)

    def linear(self, name: str, x: Array) -> Array:
        return np.asarray(x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"])

    def norm(self, name: str, x: Array, groups: int) -> Array:
        return group_norm(x, groups, self.w[f"{name}.weight"], self.w[f"{name}.bias"], self.config.norm_eps)

    def time(
        self,
        t: Array,
        labels: np.ndarray | None = None,
        name: str = "time_embedding",
        vector: Array | None = None,
        keep: np.ndarray | None = None,
    ) -> Array:
        c = self.config
        x = sinusoids(t, c.block_out_channels[0], c.flip_sin_to_cos, c.freq_shift)
        x = self.linear(f"{name}.linear_2", silu(self.linear(f"{name}.linear_1", x)))
        if vector is not None:
            # A dropped vector leaves the biases alone, a kept one adds the last column of the first matrix.
            w, b = self.w["vector_embedding.linear_1.weight"], self.w["vector_embedding.linear_1.bias"]
            kept = np.ones(len(vector)) if keep is None else keep
            rows = [b + k * (w[:, :-1] @ v + w[:, -1]) for k, v in zip(kept, vector, strict=True)]
            x = x + self.linear("vector_embedding.linear_2", silu(np.array(rows)))
        return x if labels is None else np.asarray(x + self.w["class_embedding.weight"][labels])

    def resnet(self, name: str, x: Array, time: Array, resample: Function = np.asarray, divisor: float = 1.0) -> Array:
        groups = self.config.norm_num_groups
        h = self.conv(f"{name}.conv1", resample(self.activation(self.norm(f"{name}.norm1", x, groups))))
        emb = self.linear(f"{name}.time_emb_proj", self.activation(time))[:, None, None, :]
        if self.config.resnet_time_scale_shift == "scale_shift":
            C = h.shape[-1]
            h = self.norm(f"{name}.norm2", h, groups) * (1 + emb[..., :C]) + emb[..., C:]
        else:
            h = self.norm(f"{name}.norm2", h + emb, groups)
        h = self.conv(f"{name}.conv2", self.activation(h))
        x = resample(x)
        if f"{name}.conv_shortcut.weight" in self.w:
            x = self.conv(f"{name}.conv_shortcut", x)
        return np.asarray((x + h) / divisor)

    def attention(self, name: str, x: Array, groups: int, divisor: float = 1.0) -> Array:
        h = self.norm(f"{name}.group_norm", x, groups) if f"{name}.group_norm.weight" in self.w else x
        heads = x.shape[-1] // (self.config.attention_head_dim or x.shape[-1])
        q, k, v = (lambda y, part=part: self.linear(f"{name}.to_{part}", y) for part in "qkv")
        return np.asarray((self.linear(f"{name}.to_out.0", attention(h, q, k, v, heads)) + x) / divisor)

    def downsample(self, name: str, x: Array) -> Array:
        return self.conv(name, x, stride=2, before=self.config.downsample_padding, after=1)

    def level(self, block: str, x: Array, time: Array, count: int, skips: list[Array], ascending: bool) -> Array:
        for i in range(count):
            x = np.concatenate([x, skips.pop()], axis=-1) if ascending else x
            x = self.resnet(f"{block}.resnets.{i}", x, time)
            if f"{block}.attentions.{i}.to_q.weight" in self.w:
                x = self.attention(f"{block}.attentions.{i}", x, self.config.norm_num_groups)
            if not ascending:
                skips.append(x)
        return x

    def __call__(
        self,
        x: Array,
        t: np.ndarray | int,
        labels: np.ndarray | None = None,
        vector: Array | None = None,
        keep: np.ndarray | None = None,
        image: Array | None = None,
    ) -> Array:
        c = self.config
        time = self.time(np.broadcast_to(t, len(x)), labels, vector=vector, keep=keep)
        x = x if image is None else np.concatenate([x, image], axis=-1)
        x = self.conv("conv_in", to_patches(2 * x - 1 if c.center_input_sample else x, c.patch_size))
        skips = [x]
        for level in range(len(c.block_out_channels)):
            name = f"down_blocks.{level}"
            x = self.level(name, x, time, c.layers_per_block, skips, False)
            if f"{name}.downsamplers.0.conv.weight" in self.w:
                x = self.downsample(f"{name}.downsamplers.0.conv", x)
            elif f"{name}.downsamplers.0.conv1.weight" in self.w:
                x = self.resnet(f"{name}.downsamplers.0", x, time, mean_2x2)
            if level < len(c.block_out_channels) - 1:
                skips.append(x)
        if c.mid_block_type:
            x = self.resnet("mid_block.resnets.0", x, time, divisor=c.mid_block_scale_factor)
            if c.add_attention:
                groups = c.attn_norm_num_groups or c.norm_num_groups
                x = self.attention("mid_block.attentions.0", x, groups, c.mid_block_scale_factor)
            x = self.resnet("mid_block.resnets.1", x, time, divisor=c.mid_block_scale_factor)
        for level in range(len(c.block_out_channels)):
            name = f"up_blocks.{level}"
            x = self.level(name, x, time, c.layers_per_block + 1, skips, True)
            if f"{name}.upsamplers.0.conv.weight" in self.w:
                x = self.conv(f"{name}.upsamplers.0.conv", nearest_x2(x))
            elif f"{name}.upsamplers.0.conv1.weight" in self.w:
                x = self.resnet(f"{name}.upsamplers.0", x, time, nearest_x2)
        x = self.conv("conv_out", silu(self.norm("conv_norm_out", x, c.norm_num_groups)))
        return from_patches(x, c.patch_size)
