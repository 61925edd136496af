"""The table [model]: the network. Imports no framework."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from core.config.architectures import ARCHITECTURES, Architecture
from core.config.require import require


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
        names = ", ".join(ARCHITECTURES)
        require(self.architecture in ARCHITECTURES, "model.architecture", self.architecture, f"one of {names}")
        architecture = ARCHITECTURES[self.architecture]
        for f in dataclasses.fields(self):
            require(
                getattr(self, f.name) == f.default or architecture.takes(f.name),
                f"model.{f.name}",
                getattr(self, f.name),
                f"left out where architecture is {self.architecture}, which has only {', '.join(architecture.keys)}",
            )
        architecture.check(self)
        self.check_size(*self.sample_size)

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
