"""The U-Net's layers, NCHW, with diffusers' attribute names. Twin: tf_impl/layers.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from core.config import ModelConfig
from core.networks.specs import time_frequencies
from core.networks.unet import UPSAMPLING_TAPS, AttentionPlan, BlockPlan, ConvPlan, ResnetPlan
from torch_impl.kernel import group_norm

# F.gelu is the exact GELU, with erf.
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"silu": F.silu, "gelu": F.gelu}


class TimeEmbedding(nn.Module):
    """Sinusoids of t, then two linear layers: (B,) -> (B, time_channels)."""

    def __init__(self, config: ModelConfig, time_channels: int) -> None:
        super().__init__()
        self.flip = config.flip_sin_to_cos
        # Not part of the state. Cast to the weights' dtype before the product with t, as in the other twin: the angle
        # is then bit-equal in both, and otherwise differs by 6e-5 at t = 999.
        self.frequencies: torch.Tensor
        self.register_buffer("frequencies", torch.from_numpy(time_frequencies(config)), persistent=False)
        self.linear_1 = nn.Linear(2 * len(self.frequencies), time_channels)
        self.linear_2 = nn.Linear(time_channels, time_channels)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        dtype = self.linear_1.weight.dtype
        angle = t.to(dtype)[:, None] * self.frequencies.to(dtype)  # (B, first / 2)
        parts = (angle.cos(), angle.sin()) if self.flip else (angle.sin(), angle.cos())
        return self.linear_2(F.silu(self.linear_1(torch.cat(parts, dim=1))))


class VectorEmbedding(nn.Module):
    """The condition's parameters and `keep`, then two linear layers: (B, P) and (B,) -> (B, time_channels)."""

    def __init__(self, channels: int, time_channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels + 1, time_channels)
        self.linear_2 = nn.Linear(time_channels, time_channels)

    def forward(self, vector: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        dtype = self.linear_1.weight.dtype
        keep = keep.to(dtype)[:, None]
        x = torch.cat([vector.to(dtype) * keep, keep], dim=1)  # (B, P + 1), all 0 where unconditional
        return self.linear_2(F.silu(self.linear_1(x)))


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution where `channels` is given."""

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()
        if channels is not None:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "conv"):
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        # Each of the four pixels that a pixel becomes sees 2x2 pixels of x. So one transposed convolution with 16
        # weights does both, in less than half the operations of 9 weights on four times the pixels.
        taps = torch.from_numpy(UPSAMPLING_TAPS).to(self.conv.weight)
        weight = (taps @ self.conv.weight @ taps.T).transpose(0, 1)  # (C_in, C_out, 4, 4)
        weight = weight.contiguous(memory_format=torch.channels_last)
        return F.conv_transpose2d(x, weight, self.conv.bias, stride=2, padding=1)


class Downsample(nn.Module):
    """A stride-2 3x3 convolution where `channels` is given, else the mean of 2x2 pixels."""

    def __init__(self, channels: int | None = None, padding: int = 1) -> None:
        super().__init__()
        self.padding = padding
        if channels is not None:
            self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "conv"):
            return F.avg_pool2d(x, 2)
        # padding 0 is that of the original DDPM: at right and bottom only.
        return self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions, with the time embedding between them and a shortcut around them."""

    def __init__(self, plan: ResnetPlan, config: ModelConfig, time_channels: int) -> None:
        super().__init__()
        c_in, c_out, groups, eps = plan.in_channels, plan.out_channels, config.norm_num_groups, config.norm_eps
        self.scale_shift = config.resnet_time_scale_shift == "scale_shift"
        self.scale_factor = plan.scale_factor
        self.activation = ACTIVATIONS[config.act_fn]
        self.norm1 = nn.GroupNorm(groups, c_in, eps=eps)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, 2 * c_out if self.scale_shift else c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=eps)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.resample = {"up": Upsample, "down": Downsample, None: nn.Identity}[plan.resample]()
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if plan.has_shortcut else None

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.conv1(self.resample(group_norm(self.norm1, x, self.activation)))
        time = self.time_emb_proj(self.activation(time))
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = group_norm(self.norm2, h, self.activation, scale=scale, shift=shift)
        else:
            h = group_norm(self.norm2, h, self.activation, offset=time)
        h = self.conv2(self.dropout(h))
        x = self.resample(x)
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return x + h if self.scale_factor == 1 else (x + h) / self.scale_factor


class Attention(nn.Module):
    """Multi-head self-attention over the pixels, with a residual connection."""

    def __init__(self, plan: AttentionPlan, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.scale_factor = plan.heads, plan.scale_factor
        self.group_norm = nn.GroupNorm(plan.groups, plan.channels, eps=config.norm_eps) if plan.groups else None
        self.to_q = nn.Linear(plan.channels, plan.channels)
        self.to_k = nn.Linear(plan.channels, plan.channels)
        self.to_v = nn.Linear(plan.channels, plan.channels)
        self.to_out = nn.ModuleList([nn.Linear(plan.channels, plan.channels)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, C, H, W = x.shape
        h = group_norm(self.group_norm, x) if self.group_norm is not None else x
        h = h.flatten(2).transpose(1, 2)  # (B, HW, C)
        q, k, v = (
            layer(h).view(B, H * W, self.heads, C // self.heads).transpose(1, 2)  # (B, heads, HW, C / heads)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        h = F.scaled_dot_product_attention(q, k, v)  # softmax(q k^T / sqrt(C / heads)) v
        h = self.to_out[0](h.transpose(1, 2).reshape(B, H * W, C))
        h = h.transpose(1, 2).view(B, C, H, W) + x
        return h if self.scale_factor == 1 else h / self.scale_factor


def resampler(plan: ResnetPlan | ConvPlan, config: ModelConfig, time_channels: int) -> nn.Module:
    """The layer at the end of a level, which halves or doubles the image size."""
    if isinstance(plan, ResnetPlan):
        return ResnetBlock(plan, config, time_channels)
    if plan.resample == "up":
        return Upsample(plan.channels)
    return Downsample(plan.channels, config.downsample_padding)


class Block(nn.Module):
    """One level: residual blocks with or without attention, and a layer at its end that changes the image size."""

    def __init__(self, plan: BlockPlan, config: ModelConfig, time_channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(p, config, time_channels) for p in plan.resnets])
        self.attentions = nn.ModuleList([Attention(p, config) for p in plan.attentions])
        end = [] if plan.resampler is None else [resampler(plan.resampler, config, time_channels)]
        self.downsamplers = nn.ModuleList(end if plan.name.startswith("down") else [])
        self.upsamplers = nn.ModuleList(end if plan.name.startswith("up") else [])

    def resize(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Apply the layer at the level's end, which takes the time embedding where it is a residual block."""
        for layer in (*self.downsamplers, *self.upsamplers):
            x = layer(x, time) if isinstance(layer, ResnetBlock) else layer(x)
        return x
