"""The baseline network as a plain `nn.Module`, NCHW. Twin: tf_impl/baseline_unet.py.

Its state_dict has the original's names.
Source: dome272/Diffusion-Models-pytorch, modules.py. There the size is fixed to 64 x 64, and attention keeps its
weights in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from core.config import ModelConfig
from core.networks.baseline import BASELINE_TIME_CHANNELS, HEADS, NORM_EPS, baseline_plan
from core.networks.specs import time_frequencies


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each normalised over (C, H, W); with `residual`, gelu of their sum with the input."""

    def __init__(self, c_in: int, c_out: int, c_mid: int | None = None, residual: bool = False) -> None:
        super().__init__()
        c_mid = c_mid or c_out
        self.residual = residual
        self.double_conv = nn.Sequential(
            nn.Conv2d(c_in, c_mid, 3, padding=1, bias=False),
            nn.GroupNorm(1, c_mid, eps=NORM_EPS),
            nn.GELU(),
            nn.Conv2d(c_mid, c_out, 3, padding=1, bias=False),
            nn.GroupNorm(1, c_out, eps=NORM_EPS),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.double_conv(x)
        return F.gelu(x + h) if self.residual else h


def _embedding_layer(channels: int) -> nn.Sequential:
    """Projection of the time embedding to the channels of a level: (B, 256) -> (B, channels)."""
    return nn.Sequential(nn.SiLU(), nn.Linear(BASELINE_TIME_CHANNELS, channels))


class Down(nn.Module):
    """Max pooling of 2x2 pixels and two double convolutions; the time embedding is added."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(
            nn.MaxPool2d(2), DoubleConv(c_in, c_in, residual=True), DoubleConv(c_in, c_out)
        )
        self.emb_layer = _embedding_layer(c_out)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return self.maxpool_conv(x) + self.emb_layer(time)[:, :, None, None]


def upsample(x: torch.Tensor) -> torch.Tensor:
    """Bilinear upsampling by 2, with corners aligned."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


class Up(nn.Module):
    """Upsampling, concatenation to the skip, and two double convolutions; the time embedding is added."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(DoubleConv(c_in, c_in, residual=True), DoubleConv(c_in, c_out, c_in // 2))
        self.emb_layer = _embedding_layer(c_out)

    def forward(self, x: torch.Tensor, skip: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.cat([skip, upsample(x)], dim=1)) + self.emb_layer(time)[:, :, None, None]


class MultiheadAttention(nn.Module):
    """Self-attention of (B, N, C) that does not keep its weights in memory; names as in `nn.MultiheadAttention`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, N, C = x.shape
        h = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, N, 3 C)
        q, k, v = h.view(B, N, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)  # each (B, heads, N, C / heads)
        h = F.scaled_dot_product_attention(q, k, v)  # softmax(q k^T / sqrt(C / heads)) v
        return self.out_proj(h.transpose(1, 2).reshape(B, N, C))


class SelfAttention(nn.Module):
    """Attention over the pixels and a feed-forward network, each behind a LayerNorm and with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mha = MultiheadAttention(channels)
        self.ln = nn.LayerNorm(channels, eps=NORM_EPS)
        self.ff_self = nn.Sequential(
            nn.LayerNorm(channels, eps=NORM_EPS),
            nn.Linear(channels, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, C, H, W = x.shape
        h = x.flatten(2).transpose(1, 2)  # (B, HW, C)
        h = h + self.mha(self.ln(h))
        h = h + self.ff_self(h)
        return h.transpose(1, 2).reshape(B, C, H, W)


class BaselineUNet(nn.Module):
    """The baseline U-Net.

    Args:
        config: configuration with architecture baseline.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """A stage of the network, which is added by name."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # As in layers.TimeEmbedding: not part of the state, and cast to the weights' dtype before the product with t.
        self.frequencies: torch.Tensor
        self.register_buffer("frequencies", torch.from_numpy(time_frequencies(config)), persistent=False)
        for stage in baseline_plan(config):
            if stage.kind == "attention":
                layer: nn.Module = SelfAttention(stage.in_channels)
            else:
                kind = {"double_conv": DoubleConv, "down": Down, "up": Up}[stage.kind]
                layer = kind(stage.in_channels, stage.out_channels)
            self.add_module(stage.name, layer)
        self.outc = nn.Conv2d(config.block_out_channels[0], config.out_channels, 1)
        classes = config.num_class_embeds
        self.label_emb = nn.Embedding(classes, BASELINE_TIME_CHANNELS) if classes else None

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Evaluate the network.

        Args:
            x: (B, C, H, W), in [-1, 1] plus noise.
            t: (B,) or scalar, 0-based timestep, which may be fractional.
            labels: (B,) int64 classes, for a class-conditional network only.
        Returns:
            (B, C, H, W).
        Raises:
            ValueError: the size does not fit, or labels are given or missing contrary to the configuration.
        """
        self.config.check_size(*x.shape[2:])
        self.config.check_condition(labels)
        dtype = self.outc.weight.dtype
        t = torch.as_tensor(t, device=x.device).expand(x.shape[0])
        angle = t.to(dtype)[:, None] * self.frequencies.to(dtype)
        time = torch.cat([angle.sin(), angle.cos()], dim=1)  # (B, 256)
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
