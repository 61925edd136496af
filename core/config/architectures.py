"""What the configuration knows of each architecture: one row a network, with the check of its keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from core.config.require import require, requirements

if TYPE_CHECKING:
    from core.config.model import ModelConfig

Architecture = Literal["unet", "baseline", "chart"]

DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")
UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
_ALLOWED: dict[str, tuple[str | int, ...]] = {
    "act_fn": ("silu", "gelu"),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "downsample_padding": (0, 1),
    "freq_shift": (0, 1),
}


def _check_unet(config: ModelConfig) -> None:
    need, channels, levels = requirements(config, "model"), config.block_out_channels, len(config.block_out_channels)
    need(levels >= 1, "block_out_channels", "one channel count a level")
    as_long = len(config.down_block_types) == levels == len(config.up_block_types)
    need(as_long, "down_block_types", f"as long as block_out_channels ({levels}), and so must up_block_types")
    for key, names in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS)):
        for name in getattr(config, key):
            require(name in names, f"model.{key}", name, f"one of {', '.join(names)}")
    need(config.mid_block_type in ("UNetMidBlock2D", None), "mid_block_type", "UNetMidBlock2D or null")
    for key, allowed in _ALLOWED.items():
        need(getattr(config, key) in allowed, key, f"one of {allowed}")
    for key in ("patch_size", "layers_per_block", "norm_num_groups"):
        need(getattr(config, key) >= 1, key, "at least 1")
    groups = config.attn_norm_num_groups
    need(groups is None or groups >= 1, "attn_norm_num_groups", "at least 1, or null")
    need(0 <= config.dropout < 1, "dropout", "in [0, 1)")
    for key in ("norm_eps", "mid_block_scale_factor"):
        need(getattr(config, key) > 0, key, "above 0")
    need(min(channels) >= 4 and channels[0] % 2 == 0, "block_out_channels", "at least 4 each, the first even")
    divides = all(count % config.norm_num_groups == 0 for count in channels)
    need(divides, "norm_num_groups", f"a divisor of every block_out_channels {channels}")
    for count in _channels_with_attention(config):
        head = config.attention_head_dim or count
        divisor = f"a divisor of {count}, the channels of a level with attention"
        require(count % head == 0, "model.attention_head_dim", head, divisor)
    need(groups is None or channels[-1] % groups == 0, "attn_norm_num_groups", f"a divisor of {channels[-1]}")


def _channels_with_attention(config: ModelConfig) -> set[int]:
    down = zip(config.block_out_channels, config.down_block_types, strict=True)
    up = zip(reversed(config.block_out_channels), config.up_block_types, strict=True)
    found = {count for count, name in (*down, *up) if name.startswith("Attn")}
    return found | ({config.block_out_channels[-1]} if config.mid_block_type and config.add_attention else set())


def _check_baseline(config: ModelConfig) -> None:
    first = config.block_out_channels[0] if config.block_out_channels else 0
    fits = first >= 4 and first % 4 == 0 and config.block_out_channels == (first, 2 * first, 4 * first, 4 * first)
    allowed = "(c, 2c, 4c, 4c) with c a multiple of 4 where architecture is baseline, such as (64, 128, 256, 256)"
    require(fits, "model.block_out_channels", config.block_out_channels, allowed)


def _check_chart(config: ModelConfig) -> None:
    need = requirements(config, "model")
    width = config.block_out_channels
    need(
        len(width) == 1 and width[0] >= 1, "block_out_channels", "one width where architecture is chart, such as [128]"
    )
    need(config.layers_per_block >= 1, "layers_per_block", "at least 1")
    need(config.sample_size == (1, 1), "sample_size", "1 where architecture is chart")


@dataclass(frozen=True)
class ArchitectureRow:
    """What the configuration knows of an architecture; core.networks.specs.NETWORKS has the rest."""

    check: Callable[[ModelConfig], None]
    """Raises ValueError where the keys do not fit together."""
    keys: tuple[str, ...] = ()
    """The keys of ModelConfig that it takes, the others staying at their defaults; none where it takes all."""
    any_size: bool = True
    """Whether it takes images of other sizes than model.sample_size."""
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
    "chart": ArchitectureRow(
        _check_chart,
        (
            *("sample_size", "in_channels", "out_channels", "block_out_channels", "layers_per_block"),
            *("num_class_embeds", "vector_channels"),
        ),
        any_size=False,
    ),
}
