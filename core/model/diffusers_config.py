"""Our configuration in diffusers' words, and back: `unet/config.json`, `scheduler/scheduler_config.json`.

This module imports no framework and not diffusers: it knows the two files' keys.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from core.config import ModelConfig, ProcessConfig, from_dict, nearest, to_dict

DIFFUSERS_VERSION = "0.42.1"
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid"}
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}

# UNet2DModel's own defaults, for keys that a configuration file leaves out.
_UNET_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1.0,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "num_class_embeds": None,
}
# Keys that exist in UNet2DModel and are supported at one value only.
_UNET_FIXED: dict[str, tuple[Any, ...]] = {
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "class_embed_type": (None,),
    "num_train_timesteps": (None,),
}


def unet_to_diffusers(config: ModelConfig) -> dict[str, Any]:
    """The content of `unet/config.json`."""
    return {"_class_name": "UNet2DModel", "_diffusers_version": DIFFUSERS_VERSION, **to_dict(config)}


def unet_from_diffusers(values: dict[str, Any], where: str = "config.json") -> ModelConfig:
    """The network that a `UNet2DModel` configuration describes.

    Args:
        values: the parsed file; keys it leaves out take diffusers' defaults. A null sample_size becomes 32, or the
            next size that fits (the network itself takes any).
        where: the file's name, for messages.
    Raises:
        ValueError: another class, an unknown key, or a key or value that is not supported, by name.
    """
    class_name = values.get("_class_name", "UNet2DModel")
    if class_name != "UNet2DModel":
        raise ValueError(f"{where}: _class_name = {class_name!r}: only UNet2DModel can be read")
    known = {key: value for key, value in values.items() if not key.startswith("_")}
    for key, allowed in _UNET_FIXED.items():
        value = known.pop(key, allowed[0])
        if value not in allowed:
            raise ValueError(f"{where}: {key} = {value!r} is not supported (only {allowed[0]!r})")
    for key in known:
        if key not in _UNET_DEFAULTS:
            raise ValueError(f"{where}: key {key!r} is not supported{nearest(key, _UNET_DEFAULTS)}")
    merged = {**_UNET_DEFAULTS, **known}
    for key in ("down_block_types", "up_block_types"):
        merged[key] = [name.removeprefix("UNetRes") for name in merged[key]]
    if merged["sample_size"] is None:
        step = 2 ** (len(merged["block_out_channels"]) - 1)
        merged["sample_size"] = -(-32 // step) * step
    for key in ("attention_head_dim", "num_class_embeds", "attn_norm_num_groups"):
        if isinstance(merged[key], float) and merged[key].is_integer():
            merged[key] = int(merged[key])
    try:
        return from_dict(ModelConfig, merged, "model")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def scheduler_to_diffusers(process: ProcessConfig) -> dict[str, Any]:
    """The content of `scheduler/scheduler_config.json`: a DDPMScheduler of the same process."""
    return {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": DIFFUSERS_VERSION,
        "num_train_timesteps": process.timesteps,
        "beta_schedule": SCHEDULES[process.schedule],
        "beta_start": process.beta_start,
        "beta_end": process.beta_end,
        "trained_betas": None,
        "rescale_betas_zero_snr": process.zero_terminal_snr,
        "prediction_type": PREDICTIONS[process.prediction],
        "variance_type": "fixed_small",
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "timestep_spacing": "trailing" if process.zero_terminal_snr else "leading",
        "steps_offset": 0,
        "thresholding": False,
    }


def process_from_diffusers(values: dict[str, Any], where: str = "scheduler_config.json") -> ProcessConfig:
    """The forward process that a diffusers scheduler's configuration describes.

    Raises:
        ValueError: a schedule or prediction type that is not supported, by name.
    """
    if values.get("trained_betas") is not None:
        raise ValueError(f"{where}: trained_betas is not supported; use a named beta_schedule")
    names = {ours: theirs for theirs, ours in SCHEDULES.items()}
    predictions = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    schedule, prediction = values.get("beta_schedule", "linear"), values.get("prediction_type", "epsilon")
    if schedule not in names:
        raise ValueError(f"{where}: beta_schedule = {schedule!r} is not supported (only {', '.join(names)})")
    if prediction not in predictions:
        raise ValueError(f"{where}: prediction_type = {prediction!r} is not supported (only {', '.join(predictions)})")
    fields = {
        "timesteps": values.get("num_train_timesteps", 1000),
        "schedule": names[schedule],
        "beta_start": values.get("beta_start", 1e-4),
        "beta_end": values.get("beta_end", 0.02),
        "zero_terminal_snr": values.get("rescale_betas_zero_snr", False),
        "prediction": predictions[prediction],
    }
    try:
        return dataclasses.replace(ProcessConfig(), **fields)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
