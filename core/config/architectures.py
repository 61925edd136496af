"""What the configuration knows of each architecture: one row a network, with the check of its keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from core.config.require import require

if TYPE_CHECKING:
    from core.config.model import ModelConfig

Architecture = Literal["unet", "baseline"]

DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")
UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")


def _check_unet(config: ModelConfig) -> None:
    levels = len(config.block_out_channels)
    require(levels >= 1, "model.block_out_channels", config.block_out_channels, "one channel count a level")
    require(
        len(config.down_block_types) == levels == len(config.up_block_types),
        "model.down_block_types",
        config.down_block_types,
        f"as long as block_out_channels ({levels}), and so must up_block_types",
    )
    for name in config.down_block_types:
        require(name in DOWN_BLOCKS, "model.down_block_types", name, f"one of {', '.join(DOWN_BLOCKS)}")
    for name in config.up_block_types:
        require(name in UP_BLOCKS, "model.up_block_types", name, f"one of {', '.join(UP_BLOCKS)}")
    require(config.mid_block_type in ("UNetMidBlock2D", None), "model.mid_block_type", config.mid_block_type, "UNetMidBlock2D or null")  # fmt: skip
    for key, allowed in (
        ("act_fn", ("silu", "gelu")),
        ("downsample_type", ("conv", "resnet")),
        ("upsample_type", ("conv", "resnet")),
        ("resnet_time_scale_shift", ("default", "scale_shift")),
        ("downsample_padding", (0, 1)),
        ("freq_shift", (0, 1)),
    ):
        require(getattr(config, key) in allowed, f"model.{key}", getattr(config, key), f"one of {allowed}")
    for key in ("layers_per_block", "norm_num_groups"):
        require(getattr(config, key) >= 1, f"model.{key}", getattr(config, key), "at least 1")
    require(0 <= config.dropout < 1, "model.dropout", config.dropout, "in [0, 1)")
    require(config.norm_eps > 0, "model.norm_eps", config.norm_eps, "above 0")
    require(config.mid_block_scale_factor > 0, "model.mid_block_scale_factor", config.mid_block_scale_factor, "above 0")
    require(min(config.block_out_channels) >= 4 and config.block_out_channels[0] % 2 == 0, "model.block_out_channels", config.block_out_channels, "at least 4 each, the first even")  # fmt: skip
    for channels in config.block_out_channels:
        require(channels % config.norm_num_groups == 0, "model.norm_num_groups", config.norm_num_groups, f"a divisor of every block_out_channels {config.block_out_channels}")  # fmt: skip
    levels_with_attention = {c for c, name in zip(config.block_out_channels, config.down_block_types, strict=True) if name == "AttnDownBlock2D"}  # fmt: skip
    levels_with_attention |= {c for c, name in zip(reversed(config.block_out_channels), config.up_block_types, strict=True) if name == "AttnUpBlock2D"}  # fmt: skip
    if config.mid_block_type and config.add_attention:
        levels_with_attention.add(config.block_out_channels[-1])
    for channels in levels_with_attention:
        head = config.attention_head_dim or channels
        require(channels % head == 0, "model.attention_head_dim", head, f"a divisor of {channels}, the channels of a level with attention")  # fmt: skip
    if config.attn_norm_num_groups is not None:
        require(config.block_out_channels[-1] % config.attn_norm_num_groups == 0, "model.attn_norm_num_groups", config.attn_norm_num_groups, f"a divisor of {config.block_out_channels[-1]}")  # fmt: skip


def _check_baseline(config: ModelConfig) -> None:
    first = config.block_out_channels[0] if config.block_out_channels else 0
    fits = first >= 4 and first % 4 == 0 and config.block_out_channels == (first, 2 * first, 4 * first, 4 * first)
    allowed = "(c, 2c, 4c, 4c) with c a multiple of 4 where architecture is baseline, such as (64, 128, 256, 256)"
    require(fits, "model.block_out_channels", config.block_out_channels, allowed)


@dataclass(frozen=True)
class ArchitectureRow:
    """What the configuration knows of an architecture; core.networks.specs.NETWORKS has the rest."""

    check: Callable[[ModelConfig], None]
    """Raises ValueError where the keys do not fit together."""
    keys: tuple[str, ...] = ()
    """The keys of ModelConfig that it takes, the others staying at their defaults; none where it takes all."""
    gradient_checkpointing: bool = False
    """Whether its blocks can be evaluated again in the backward pass, to save memory."""

    def takes(self, key: str) -> bool:
        """Whether a key of ModelConfig may have a value of its own."""
        return not self.keys or key in (*self.keys, "architecture")


ARCHITECTURES: dict[str, ArchitectureRow] = {
    "unet": ArchitectureRow(_check_unet, gradient_checkpointing=True),
    "baseline": ArchitectureRow(
        _check_baseline, ("sample_size", "in_channels", "out_channels", "block_out_channels", "num_class_embeds")
    ),
}
