"""The U-Net as data: its blocks, and every parameter's name, shape and initialiser.

Both twins build their networks from `unet_plan`, so channel arithmetic is done once. Names, layout (OIHW) and
configuration keys are those of diffusers' `UNet2DModel` (0.42.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from core.config import ModelConfig
from core.networks.parameters import ParamSpec

UPSAMPLING_TAPS = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=np.float64)
"""A: nearest-neighbour upsampling by 2 and then a convolution with the 3x3 kernel K (and padding 1) is the transposed
convolution with the 4x4 kernel A K A^T, stride 2 and padding 1."""


@dataclass(frozen=True)
class ResnetPlan:
    """A residual block; `resample` is 'up' or 'down' where it also changes the image's size."""

    name: str
    in_channels: int
    out_channels: int
    resample: Literal["up", "down"] | None = None
    scale_factor: float = 1.0

    @property
    def has_shortcut(self) -> bool:
        """Whether a 1x1 convolution stands on the shortcut."""
        return self.in_channels != self.out_channels


@dataclass(frozen=True)
class AttentionPlan:
    """Self-attention over pixels; `groups` is None where it has no norm of its own."""

    name: str
    channels: int
    heads: int
    groups: int | None
    scale_factor: float = 1.0


@dataclass(frozen=True)
class ConvPlan:
    """A 3x3 convolution that halves or doubles the image."""

    name: str
    channels: int
    resample: Literal["up", "down"]


@dataclass(frozen=True)
class BlockPlan:
    """One level's blocks, in order; `attentions` is as long as `resnets` (or empty), one shorter in the middle."""

    name: str
    resnets: tuple[ResnetPlan, ...]
    attentions: tuple[AttentionPlan, ...] = ()
    resampler: ResnetPlan | ConvPlan | None = None


@dataclass(frozen=True)
class UNetPlan:
    """The whole network."""

    config: ModelConfig
    time_channels: int
    down: tuple[BlockPlan, ...]
    mid: BlockPlan | None
    up: tuple[BlockPlan, ...]


def _attention(config: ModelConfig, name: str, channels: int) -> AttentionPlan:
    heads = channels // (config.attention_head_dim or channels)
    return AttentionPlan(name, channels, heads, config.norm_num_groups)


def _resampler(kind: str, name: str, channels: int, way: Literal["up", "down"]) -> ResnetPlan | ConvPlan:
    if kind == "resnet":
        return ResnetPlan(name, channels, channels, resample=way)
    return ConvPlan(name, channels, way)


def _down_block(config: ModelConfig, level: int, in_channels: int) -> BlockPlan:
    name, kind, out = f"down_blocks.{level}", config.down_block_types[level], config.block_out_channels[level]
    layers = range(config.layers_per_block)
    resnets = tuple(ResnetPlan(f"{name}.resnets.{i}", in_channels if i == 0 else out, out) for i in layers)
    attentions = tuple(_attention(config, f"{name}.attentions.{i}", out) for i in layers if kind == "AttnDownBlock2D")
    how = {"DownBlock2D": "conv", "AttnDownBlock2D": config.downsample_type, "ResnetDownsampleBlock2D": "resnet"}[kind]
    last = level == len(config.block_out_channels) - 1
    return BlockPlan(
        name, resnets, attentions, None if last else _resampler(how, f"{name}.downsamplers.0", out, "down")
    )


def _up_block(config: ModelConfig, index: int) -> BlockPlan:
    channels = tuple(reversed(config.block_out_channels))
    name, kind, out = f"up_blocks.{index}", config.up_block_types[index], channels[index]
    previous = channels[max(index - 1, 0)]
    skip_last = channels[min(index + 1, len(channels) - 1)]
    layers = range(config.layers_per_block + 1)
    resnets = []
    for i in layers:
        skip = skip_last if i == config.layers_per_block else out
        resnets.append(ResnetPlan(f"{name}.resnets.{i}", (previous if i == 0 else out) + skip, out))
    attentions = tuple(_attention(config, f"{name}.attentions.{i}", out) for i in layers if kind == "AttnUpBlock2D")
    how = {"UpBlock2D": "conv", "AttnUpBlock2D": config.upsample_type, "ResnetUpsampleBlock2D": "resnet"}[kind]
    last = index == len(channels) - 1
    resampler = None if last else _resampler(how, f"{name}.upsamplers.0", out, "up")
    return BlockPlan(name, tuple(resnets), attentions, resampler)


def _mid_block(config: ModelConfig) -> BlockPlan:
    channels, scale = config.block_out_channels[-1], config.mid_block_scale_factor
    resnets = tuple(ResnetPlan(f"mid_block.resnets.{i}", channels, channels, None, scale) for i in range(2))
    if not config.add_attention:
        return BlockPlan("mid_block", resnets)
    # diffusers: with scale_shift the middle attention has a norm only where attn_norm_num_groups says so.
    default = config.norm_num_groups if config.resnet_time_scale_shift == "default" else None
    heads = channels // (config.attention_head_dim or channels)
    groups = config.attn_norm_num_groups or default
    return BlockPlan("mid_block", resnets, (AttentionPlan("mid_block.attentions.0", channels, heads, groups, scale),))


def unet_plan(config: ModelConfig) -> UNetPlan:
    """The blocks of the U-Net that a configuration describes."""
    channels = config.block_out_channels
    down = tuple(_down_block(config, i, channels[max(i - 1, 0)]) for i in range(len(channels)))
    mid = _mid_block(config) if config.mid_block_type else None
    up = tuple(_up_block(config, i) for i in range(len(channels)))
    return UNetPlan(config, 4 * channels[0], down, mid, up)


def _layer(
    name: str, kind: Literal["conv", "linear"], shape: tuple[int, ...], zero: bool = False
) -> Iterator[tuple[str, ParamSpec]]:
    yield f"{name}.weight", ParamSpec(shape, kind, "zeros" if zero else "fan_avg")
    yield f"{name}.bias", ParamSpec(shape[:1], "bias", "zeros")


def _norm(name: str, channels: int) -> Iterator[tuple[str, ParamSpec]]:
    yield f"{name}.weight", ParamSpec((channels,), "norm", "ones")
    yield f"{name}.bias", ParamSpec((channels,), "bias", "zeros")


def _resnet(plan: ResnetPlan, config: ModelConfig, time_channels: int) -> Iterator[tuple[str, ParamSpec]]:
    name, c_in, c_out = plan.name, plan.in_channels, plan.out_channels
    projected = 2 * c_out if config.resnet_time_scale_shift == "scale_shift" else c_out
    yield from _norm(f"{name}.norm1", c_in)
    yield from _layer(f"{name}.conv1", "conv", (c_out, c_in, 3, 3))
    yield from _layer(f"{name}.time_emb_proj", "linear", (projected, time_channels))
    yield from _norm(f"{name}.norm2", c_out)
    yield from _layer(f"{name}.conv2", "conv", (c_out, c_out, 3, 3), zero=True)
    if plan.has_shortcut:
        yield from _layer(f"{name}.conv_shortcut", "conv", (c_out, c_in, 1, 1))


def _attention_specs(plan: AttentionPlan) -> Iterator[tuple[str, ParamSpec]]:
    if plan.groups is not None:
        yield from _norm(f"{plan.name}.group_norm", plan.channels)
    for part in ("to_q", "to_k", "to_v"):
        yield from _layer(f"{plan.name}.{part}", "linear", (plan.channels, plan.channels))
    yield from _layer(f"{plan.name}.to_out.0", "linear", (plan.channels, plan.channels), zero=True)


def unet_specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """Every parameter of the U-Net, by diffusers' name, in a fixed order."""
    return dict(_specs(unet_plan(config)))


def _specs(plan: UNetPlan) -> Iterator[tuple[str, ParamSpec]]:
    config, first, time = plan.config, plan.config.block_out_channels[0], plan.time_channels
    pixels = config.patch_size**2
    yield from _layer("conv_in", "conv", (first, config.in_channels * pixels, 3, 3))
    yield from _layer("time_embedding.linear_1", "linear", (time, first))
    yield from _layer("time_embedding.linear_2", "linear", (time, time))
    if config.num_class_embeds is not None:
        yield "class_embedding.weight", ParamSpec((config.num_class_embeds, time), "embedding", "normal")
    if config.vector_channels:  # ours; the one more input says whether there is a vector
        yield from _layer("vector_embedding.linear_1", "linear", (time, config.vector_channels + 1))
        yield from _layer("vector_embedding.linear_2", "linear", (time, time))
    for block in (*plan.down, *((plan.mid,) if plan.mid else ()), *plan.up):
        for resnet in block.resnets:
            yield from _resnet(resnet, config, time)
        for attention in block.attentions:
            yield from _attention_specs(attention)
        if isinstance(block.resampler, ResnetPlan):
            yield from _resnet(block.resampler, config, time)
        elif block.resampler is not None:
            c = block.resampler.channels
            yield from _layer(f"{block.resampler.name}.conv", "conv", (c, c, 3, 3))
    yield from _norm("conv_norm_out", first)
    yield from _layer("conv_out", "conv", (config.out_channels * pixels, first, 3, 3), zero=True)
