"""The table [model]: the network."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from core.config.architectures import ARCHITECTURES, Architecture
from core.config.limits import check_limits
from core.config.require import requirements


@dataclass(frozen=True)
class ModelConfig:
    """The network, in the keys of diffusers' `UNet2DModel` configuration."""

    sample_size: tuple[int, int] = (64, 64)
    """Image height and width in pixels; each must be divisible by patch_size 2^(levels - 1)."""
    in_channels: int = 1
    """Channels of the network's input: the image's plus condition_channels."""
    out_channels: int = 1
    """Channels of the network's output: the image's, or twice as many where process.variance is learned."""
    patch_size: int = 1
    """Side in pixels of the squares that become channels at the network's input, and pixels again at its output. With 2
    every level has half the resolution, so that a step costs less. diffusers knows only 1."""
    center_input_sample: bool = False
    """Map the input from [0, 1] to [-1, 1] inside the network. Images are mapped outside already, so keep false."""
    freq_shift: int = 0
    """Shift in the exponent's denominator of the time embedding, 0 or 1; the original DDPM has 1."""
    flip_sin_to_cos: bool = True
    """Order the time embedding as [cos, sin]; false is [sin, cos], as the original DDPM."""
    down_block_types: tuple[str, ...] = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
    """One block for each level, from full resolution down. Attn blocks attend at that resolution."""
    mid_block_type: str | None = "UNetMidBlock2D"
    """UNetMidBlock2D, or none for no middle block."""
    up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
    """One block for each level, from the lowest resolution up."""
    block_out_channels: tuple[int, ...] = (32, 64, 64)
    """Channels of each level, from full resolution down."""
    layers_per_block: int = 2
    """Residual blocks of a level going down; a level going up has one more."""
    mid_block_scale_factor: float = 1.0
    """Divisor of the middle block's residual sums."""
    downsample_padding: int = 1
    """Padding of the stride-2 convolution: 1 on all sides, or 0 for right and bottom only, as the original DDPM."""
    downsample_type: str = "conv"
    """How AttnDownBlock2D halves the image: conv or resnet."""
    upsample_type: str = "conv"
    """How AttnUpBlock2D doubles the image: conv or resnet."""
    dropout: float = 0.0
    """Dropout probability inside residual blocks. Raise it where a small data set is learned by heart."""
    act_fn: str = "silu"
    """Activation function: silu, or gelu (exact, with erf)."""
    attention_head_dim: int | None = 8
    """Channels of each attention head; none for a single head."""
    norm_num_groups: int = 32
    """Groups of every GroupNorm; must divide every entry of block_out_channels."""
    attn_norm_num_groups: int | None = None
    """Groups of the middle attention's GroupNorm. none takes norm_num_groups, or no norm where
    resnet_time_scale_shift is scale_shift."""
    norm_eps: float = 1e-5
    """Epsilon of every GroupNorm."""
    resnet_time_scale_shift: str = "default"
    """How the time embedding enters a residual block: default adds it, scale_shift scales and shifts by it."""
    add_attention: bool = True
    """Attention in the middle block."""
    num_class_embeds: int | None = None
    """Number of classes that the network is conditioned on; none for an unconditional one. With
    training.condition_dropout add one class, which means unconditional."""
    vector_channels: int = 0
    """Number of parameters that the network is conditioned on, the length of data.condition; 0 for none."""
    condition_channels: int = 0
    """Channels of the image that the network is conditioned on, counted in in_channels; 0 for none."""
    architecture: Architecture = "unet"
    """unet; baseline, the plain U-Net that this project compares itself with; or chart, for data.space = spd. baseline
    has block_out_channels c, 2c, 4c, 4c, and takes only sizes, channels and classes. chart is a multilayer perceptron
    with layers_per_block blocks of the width block_out_channels = [width]."""

    def __post_init__(self) -> None:
        check_limits(self, "model")
        need = requirements(self, "model")
        for key in ("in_channels", "out_channels"):
            need(getattr(self, key) >= 1, key, "at least 1")
        need(self.num_class_embeds is None or self.num_class_embeds >= 1, "num_class_embeds", "at least 1, or null")
        beside = 0 <= self.condition_channels < self.in_channels
        need(beside, "condition_channels", f"at least 0 and below in_channels {self.in_channels}")
        need(self.architecture in ARCHITECTURES, "architecture", f"one of {', '.join(ARCHITECTURES)}")
        row = ARCHITECTURES[self.architecture]
        only = f"left out where architecture is {self.architecture}, which has only {', '.join(row.keys)}"
        for f in dataclasses.fields(self):
            need(getattr(self, f.name) == f.default or row.takes(f.name), f.name, only)
        row.check(self)
        self.check_size(*self.sample_size)

    def check_condition(self, labels: object, vector: object = None, image: object = None) -> None:
        """Raise ValueError where a condition is missing, or given to a network that does not take it."""
        given = {"num_class_embeds": ("labels", labels), "vector_channels": ("vector", vector)}
        for key, (name, value) in {**given, "condition_channels": ("image", image)}.items():
            if (value is not None) != bool(getattr(self, key)):
                raise ValueError(f"{name}: {'missing' if value is None else 'given'}, but {key} = {getattr(self, key)}")

    @property
    def conditional(self) -> bool:
        """Whether the network is conditioned on anything but the timestep."""
        return bool(self.num_class_embeds or self.vector_channels or self.condition_channels)

    @property
    def image_channels(self) -> int:
        """Channels of the image that is drawn."""
        return self.in_channels - self.condition_channels

    @property
    def downscale(self) -> int:
        """Factor by which the lowest level is smaller than the image: patch_size 2^(levels - 1)."""
        return self.patch_size << (len(self.block_out_channels) - 1)

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError, naming sizes that fit, where the network cannot take an image of this size."""
        if not ARCHITECTURES[self.architecture].any_size and (height, width) != self.sample_size:
            own = " x ".join(map(str, self.sample_size))
            raise ValueError(f"size {height} x {width}: must be {own} for the network {self.architecture}")
        patches = f" and patch_size {self.patch_size}" if self.patch_size > 1 else ""
        for name, value in (("height", height), ("width", width)):
            if value < self.downscale or value % self.downscale:
                low = max(self.downscale, value // self.downscale * self.downscale)
                raise ValueError(
                    f"model.sample_size: {name} {value} is not divisible by {self.downscale}, which a network of "
                    f"{len(self.block_out_channels)} levels{patches} needs; {low} or {low + self.downscale} fits"
                )
