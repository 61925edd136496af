"""The largest value of every option that counts something, of recipes and of all programs' flags, in one table.

The limits are far above any use in earnest. They stop typing errors before they take memory or time.
"""

from __future__ import annotations

import dataclasses

LARGEST_FLOAT = 1e30
"""The largest size of every number that is no integer. It keeps squares and quotients finite."""

LARGEST: dict[str, int] = {
    "accumulate": 1_000_000,
    "attention_head_dim": 16_384,
    "attn_norm_num_groups": 16_384,
    "batch_size": 1_000_000,
    "beside_size": 16_384,
    "block_out_channels": 16_384,
    "checkpoint_every": 10**9,
    "condition_channels": 4_096,
    "count": 100_000_000,
    "ddpm_images": 1_000_000,
    "draws": 1_000,
    "every": 10**9,
    "first": 10**15,
    "frames": 10_000,
    "in_channels": 4_096,
    "images": 1_000_000,
    "jump": 100_000,
    "keep_checkpoints": 10**9,
    "layers_per_block": 256,
    "levels": 100_000,
    "log_every": 10**9,
    "long_steps": 10**6,
    "low_resolution": 16_384,
    "n": 100_000_000,
    "nfe": 200_000,
    "norm_num_groups": 16_384,
    "num_class_embeds": 10_000_000,
    "out_channels": 8_192,
    "patch_size": 256,
    "probes": 100_000,
    "repetitions": 10_000,
    "resample": 1_000,
    "sample_count": 1_000_000,
    "sample_every": 10**9,
    "sample_size": 16_384,
    "samples": 1_000_000,
    "sampling_steps": 100_000,
    "seed": 2**63 - 1,
    "simulate_count": 100_000_000,
    "simulate_seed": 2**63 - 1,
    "size": 16_384,
    "starts": 10_000,
    "step": 10**9,
    "steps": 100_000,
    "teacher_nfe": 100_000,
    "threads": 4_096,
    "timesteps": 100_000,
    "training.steps": 10**9,
    "vector_channels": 4_096,
    "warmup_steps": 10**9,
}
"""Largest value by the option's name. A name with its table, such as training.steps, comes before the name alone."""


def check_limits(config: object, table: str = "") -> None:
    """Refuse numbers that no option can mean: below 0 or above its limit where it counts, or not finite.

    Args:
        config: a table of a recipe, or the flags of a verb.
        table: name of the table, such as training; empty for flags.
    Raises:
        ValueError: the message names the option, its value and the limit.
    """
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            allowed = _allowed(number, LARGEST.get(f"{table}.{field.name}", LARGEST.get(field.name)))
            if allowed:
                flag = f"--{field.name.replace('_', '-')} {value}"
                where = f"{table}.{field.name} = {value!r}" if table else flag
                raise ValueError(f"{where}: must be {allowed}")


def _allowed(number: object, largest: int | None) -> str:
    """What a number must be, where it is something else; else the empty text."""
    if isinstance(number, float) and not abs(number) <= LARGEST_FLOAT:  # NaN too
        return f"finite, and at most {LARGEST_FLOAT:g} in size"
    if not isinstance(number, int) or isinstance(number, bool) or largest is None:
        return ""
    if number < 0:
        return "at least 0"
    return "" if number <= largest else f"at most {largest}"
