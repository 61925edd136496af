"""The table [model]: the network. Imports no framework."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from core.config.require import require

DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")
UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
BASELINE_KEYS = ("sample_size", "in_channels", "out_channels", "block_out_channels", "num_class_embeds")
"""What the baseline network can be told; every other key of ModelConfig is the U-Net's alone."""

Architecture = Literal["unet", "baseline"]


@dataclass(frozen=True)
class ModelConfig:
    """The network, in the keys of diffusers' `UNet2DModel` configuration."""

    sample_size: tuple[int, int] = (64, 64)
    """Image height and width in pixels; each must be divisible by 2^(levels - 1)."""
    in_channels: int = 1
    """Channels of the network's input: the image's, and condition_channels."""
    out_channels: int = 1
    """Channels of the network's output: the image's, and twice as many where process.variance is learned."""
    center_input_sample: bool = False
    """Map the input from [0, 1] to [-1, 1] inside the network."""
    freq_shift: int = 0
    """Shift in the exponent's denominator of the time embedding (1 in the original DDPM)."""
    flip_sin_to_cos: bool = True
    """Time embedding as [cos, sin] rather than [sin, cos]."""
    down_block_types: tuple[str, ...] = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
    """One block a level, from full resolution down."""
    mid_block_type: str | None = "UNetMidBlock2D"
    """UNetMidBlock2D, or none for no middle block."""
    up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
    """One block a level, from the lowest resolution up."""
    block_out_channels: tuple[int, ...] = (32, 64, 64)
    """Channels of each level."""
    layers_per_block: int = 2
    """Residual blocks a level going down (one more going up)."""
    mid_block_scale_factor: float = 1.0
    """Divisor of the middle block's residual sums."""
    downsample_padding: int = 1
    """Padding of the stride-2 convolution: 1 (both sides) or 0 (right and bottom only, as the original DDPM)."""
    downsample_type: str = "conv"
    """How AttnDownBlock2D halves the image: conv or resnet."""
    upsample_type: str = "conv"
    """How AttnUpBlock2D doubles the image: conv or resnet."""
    dropout: float = 0.0
    """Dropout probability inside residual blocks."""
    act_fn: str = "silu"
    """Activation: silu or gelu (exact, with erf)."""
    attention_head_dim: int | None = 8
    """Channels an attention head; none for one head."""
    norm_num_groups: int = 32
    """Groups of every GroupNorm."""
    attn_norm_num_groups: int | None = None
    """Groups of the middle attention's GroupNorm; none for norm_num_groups (and, with scale_shift, no norm)."""
    norm_eps: float = 1e-5
    """Epsilon of every GroupNorm."""
    resnet_time_scale_shift: str = "default"
    """How time enters a residual block: default (added) or scale_shift."""
    add_attention: bool = True
    """Attention in the middle block."""
    num_class_embeds: int | None = None
    """Number of classes of a class-conditional network, one more for no class where training.condition_dropout is above
    0; none for an unconditional one."""
    vector_channels: int = 0
    """Numbers that an image is asked for by, one each of data.condition; 0 for none."""
    condition_channels: int = 0
    """Channels of an image that is given as a condition, among in_channels; 0 for none."""
    architecture: Architecture = "unet"
    """unet, or baseline: the plain U-Net that this one is compared with, whose block_out_channels are c, 2c, 4c, 4c and
    which leaves every key but the sizes, channels and classes at its default."""

    def __post_init__(self) -> None:
        for key in ("in_channels", "out_channels"):
            require(getattr(self, key) >= 1, f"model.{key}", getattr(self, key), "at least 1")
        require(self.num_class_embeds is None or self.num_class_embeds >= 1, "model.num_class_embeds", self.num_class_embeds, "at least 1, or null")  # fmt: skip
        require(self.vector_channels >= 0, "model.vector_channels", self.vector_channels, "at least 0")
        require(0 <= self.condition_channels < self.in_channels, "model.condition_channels", self.condition_channels, f"at least 0 and below in_channels {self.in_channels}")  # fmt: skip
        if self.architecture == "baseline":
            self._check_baseline()
        else:
            self._check_unet()
        self.check_size(*self.sample_size)

    def _check_baseline(self) -> None:
        for f in dataclasses.fields(self):
            if f.name not in (*BASELINE_KEYS, "architecture"):
                require(getattr(self, f.name) == f.default, f"model.{f.name}", getattr(self, f.name), f"left out where architecture is baseline, which has only {', '.join(BASELINE_KEYS)}")  # fmt: skip
        first = self.block_out_channels[0] if self.block_out_channels else 0
        fits = first >= 4 and first % 4 == 0 and self.block_out_channels == (first, 2 * first, 4 * first, 4 * first)
        require(fits, "model.block_out_channels", self.block_out_channels, "(c, 2c, 4c, 4c) with c a multiple of 4 where architecture is baseline, such as (64, 128, 256, 256)")  # fmt: skip

    def _check_unet(self) -> None:
        levels = len(self.block_out_channels)
        require(levels >= 1, "model.block_out_channels", self.block_out_channels, "one channel count a level")
        require(
            len(self.down_block_types) == levels == len(self.up_block_types),
            "model.down_block_types",
            self.down_block_types,
            f"as long as block_out_channels ({levels}), and so must up_block_types",
        )
        for name in self.down_block_types:
            require(name in DOWN_BLOCKS, "model.down_block_types", name, f"one of {', '.join(DOWN_BLOCKS)}")
        for name in self.up_block_types:
            require(name in UP_BLOCKS, "model.up_block_types", name, f"one of {', '.join(UP_BLOCKS)}")
        require(self.mid_block_type in ("UNetMidBlock2D", None), "model.mid_block_type", self.mid_block_type, "UNetMidBlock2D or null")  # fmt: skip
        for key, allowed in (
            ("act_fn", ("silu", "gelu")),
            ("downsample_type", ("conv", "resnet")),
            ("upsample_type", ("conv", "resnet")),
            ("resnet_time_scale_shift", ("default", "scale_shift")),
            ("downsample_padding", (0, 1)),
            ("freq_shift", (0, 1)),
        ):
            require(getattr(self, key) in allowed, f"model.{key}", getattr(self, key), f"one of {allowed}")
        for key in ("layers_per_block", "norm_num_groups"):
            require(getattr(self, key) >= 1, f"model.{key}", getattr(self, key), "at least 1")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")
        require(self.norm_eps > 0, "model.norm_eps", self.norm_eps, "above 0")
        require(self.mid_block_scale_factor > 0, "model.mid_block_scale_factor", self.mid_block_scale_factor, "above 0")
        require(min(self.block_out_channels) >= 4 and self.block_out_channels[0] % 2 == 0, "model.block_out_channels", self.block_out_channels, "at least 4 each, the first even")  # fmt: skip
        for channels in self.block_out_channels:
            require(channels % self.norm_num_groups == 0, "model.norm_num_groups", self.norm_num_groups, f"a divisor of every block_out_channels {self.block_out_channels}")  # fmt: skip
        levels_with_attention = {c for c, name in zip(self.block_out_channels, self.down_block_types, strict=True) if name == "AttnDownBlock2D"}  # fmt: skip
        levels_with_attention |= {c for c, name in zip(reversed(self.block_out_channels), self.up_block_types, strict=True) if name == "AttnUpBlock2D"}  # fmt: skip
        if self.mid_block_type and self.add_attention:
            levels_with_attention.add(self.block_out_channels[-1])
        for channels in levels_with_attention:
            head = self.attention_head_dim or channels
            require(channels % head == 0, "model.attention_head_dim", head, f"a divisor of {channels}, the channels of a level with attention")  # fmt: skip
        if self.attn_norm_num_groups is not None:
            require(self.block_out_channels[-1] % self.attn_norm_num_groups == 0, "model.attn_norm_num_groups", self.attn_norm_num_groups, f"a divisor of {self.block_out_channels[-1]}")  # fmt: skip

    def check_condition(self, labels: object = None, vector: object = None, image: object = None) -> None:
        """Raise ValueError where a condition is given to a network that does not take it, or is missing for one that does."""
        for name, value, key in (("labels", labels, "num_class_embeds"), ("vector", vector, "vector_channels"), ("image", image, "condition_channels")):  # fmt: skip
            if (value is not None) != bool(getattr(self, key)):
                raise ValueError(f"{name}: {'missing' if value is None else 'given'}, but {key} = {getattr(self, key)}")

    @property
    def conditional(self) -> bool:
        """Whether the network is told anything of an image but its noise level."""
        return bool(self.num_class_embeds or self.vector_channels or self.condition_channels)

    @property
    def image_channels(self) -> int:
        """Channels of the image that is drawn."""
        return self.in_channels - self.condition_channels

    @property
    def downscale(self) -> int:
        """Factor by which the lowest level is smaller than the image: 2^(levels - 1)."""
        return 1 << (len(self.block_out_channels) - 1)

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError, naming sizes that fit, where the network cannot take an image of this size."""
        for name, value in (("height", height), ("width", width)):
            if value < self.downscale or value % self.downscale:
                low = max(self.downscale, value // self.downscale * self.downscale)
                raise ValueError(
                    f"model.sample_size: {name} {value} is not divisible by {self.downscale}, which a network of "
                    f"{len(self.block_out_channels)} levels needs; {low} or {low + self.downscale} fits"
                )
