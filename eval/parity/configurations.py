"""Tiny U-Nets that cover every pair of options: for every two factors, every two values meet in some network.

A full product would have 10^8 networks, and what breaks in practice is one option or the meeting of two. The tests and
the ladder run all of these.
"""

from __future__ import annotations

from typing import Any

from core.config import DOWN_BLOCKS, UP_BLOCKS, ModelConfig

ROOT = 2**0.5  # mid_block_scale_factor of the networks that divide residual sums

# Factor -> values. The first block of each way changes the image's size, the last does not; a level between them
# repeats the first. `mid` stands for mid_block_type and add_attention. The rest are ModelConfig's own keys.
FACTORS: dict[str, tuple[Any, ...]] = {
    "down_first": DOWN_BLOCKS,
    "down_last": DOWN_BLOCKS,
    "up_first": UP_BLOCKS,
    "up_last": UP_BLOCKS,
    "mid": ("attention", "plain", "none"),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "downsample_padding": (0, 1),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "attention_head_dim": (None, 4),
    "attn_norm_num_groups": (None, 2),
    "norm_eps": (1e-5, 1e-6),
    "flip_sin_to_cos": (False, True),
    "freq_shift": (0, 1),
    "act_fn": ("silu", "gelu"),
    "center_input_sample": (False, True),
    "num_class_embeds": (None, 3),
    "mid_block_scale_factor": (1.0, ROOT),
    "in_channels": (1, 2, 3),
    "sample_size": ((8, 8), (8, 12), (16, 8)),
    "block_out_channels": ((8, 16), (16, 8, 8)),
    "layers_per_block": (1, 2),
    "norm_num_groups": (4, 8),
}

# One network a row: of each factor, in the order of FACTORS, the place of its value there. Found by annealing;
# tests/core/test_unet_spec.py counts the pairs.
_ROWS = (
    "21020001100000010110000",
    "11012001101000110101110",
    "02221001110101010002110",
    "02111001010001101000101",
    "22102010100010101102010",
    "21201010000110100021100",
    "10120100011111001001110",
    "10101111100000010012101",
    "20212110011111011110101",
    "01110111111011111122011",
    "12200000110000000120011",
    "02001100001111100111011",
    "00022011011010101022001",
)


def factors_of(config: ModelConfig) -> dict[str, Any]:
    """The value of every factor in a network."""
    own = {name: getattr(config, name) for name in FACTORS if hasattr(config, name)}
    mid = "none" if config.mid_block_type is None else "attention" if config.add_attention else "plain"
    down, up = config.down_block_types, config.up_block_types
    return {"down_first": down[0], "down_last": down[-1], "up_first": up[0], "up_last": up[-1], "mid": mid, **own}


def _network(values: dict[str, Any]) -> ModelConfig:
    between = len(values["block_out_channels"]) - 1
    own = dict(values)
    down_first, down_last = own.pop("down_first"), own.pop("down_last")
    up_first, up_last, mid = own.pop("up_first"), own.pop("up_last"), own.pop("mid")
    return ModelConfig(
        **own,
        out_channels=own["in_channels"],
        down_block_types=(*[down_first] * between, down_last),
        up_block_types=(*[up_first] * between, up_last),
        mid_block_type=None if mid == "none" else "UNetMidBlock2D",
        add_attention=mid == "attention",
    )


def missing_pairs(configs: list[ModelConfig]) -> list[tuple[str, Any, str, Any]]:
    """Every two values of two factors that meet in none of the networks."""
    found = [factors_of(config) for config in configs]
    names = list(FACTORS)
    return [
        (a, x, b, y)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        for x in FACTORS[a]
        for y in FACTORS[b]
        if not any(values[a] == x and values[b] == y for values in found)
    ]


CONFIGURATIONS: dict[str, ModelConfig] = {
    f"network-{number:02d}": _network(
        {name: values[int(place)] for (name, values), place in zip(FACTORS.items(), row, strict=True)}
    )
    for number, row in enumerate(_ROWS, 1)
}
"""Name -> network; 8 or 16 channels, images of 8x8 to 16x8."""

# patch_size touches the first and last layer only, whose one neighbour is the number of channels.
CONFIGURATIONS["patches"] = ModelConfig(
    sample_size=(8, 12),
    in_channels=3,
    out_channels=3,
    patch_size=2,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    attention_head_dim=4,
    norm_num_groups=4,
)
