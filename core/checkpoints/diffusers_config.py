"""Our network's configuration in diffusers' words, and back: `unet/config.json`."""

from __future__ import annotations

from typing import Any

from core.config import ARCHITECTURES, ModelConfig
from core.config.nearest import nearest
from core.config.recipes import from_dict, to_dict
from core.networks.specs import NETWORKS
from core.reading import shown

DIFFUSERS_VERSION = "0.42.1"
VECTOR_CLASS = "DiptychVectorUNet"
"""The U-Net with vector_channels: diffusers' keys, and parameters that UNet2DModel does not have."""
PATCH_CLASS = "DiptychPatchUNet"
"""The U-Net with a patch_size above 1: diffusers' keys, and other shapes than UNet2DModel has with them."""
OWN_KEYS = ("patch_size", "vector_channels", "condition_channels")
"""What diffusers does not know of a U-Net; recipe.json alone has it."""

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
    """The content of `unet/config.json`, without OWN_KEYS; of a network that diffusers does not know, its own keys."""
    values = {key: value for key, value in to_dict(config).items() if key not in (*OWN_KEYS, "architecture")}
    network, row = NETWORKS[config.architecture], ARCHITECTURES[config.architecture]
    if not network.in_diffusers:
        return {"_class_name": network.class_name, **{key: value for key, value in values.items() if row.takes(key)}}
    return {"_class_name": class_name_of(config), "_diffusers_version": DIFFUSERS_VERSION, **values}


def class_name_of(config: ModelConfig) -> str:
    """The class of the network that its files name."""
    if not NETWORKS[config.architecture].in_diffusers:
        return NETWORKS[config.architecture].class_name
    if config.patch_size > 1:
        return PATCH_CLASS
    return VECTOR_CLASS if config.vector_channels else "UNet2DModel"


def unet_from_diffusers(values: dict[str, Any], where: str = "config.json") -> ModelConfig:
    """The network that a `UNet2DModel` configuration describes, or one of ours; without OWN_KEYS.

    Args:
        values: the parsed file; keys it leaves out take diffusers' defaults. A null sample_size becomes 32, or the
            next size that fits (the network itself takes any).
        where: the file's name, for messages.
    Raises:
        ValueError: another class, an unknown key, or a key or value that is not supported, by name.
    """
    class_name = values.get("_class_name", "UNet2DModel")
    ours = {row.class_name: name for name, row in NETWORKS.items() if not row.in_diffusers}
    if class_name not in ("UNet2DModel", VECTOR_CLASS, PATCH_CLASS, *ours):
        raise ValueError(f"{where}: _class_name = {shown(class_name)}: only UNet2DModel can be read")
    known = {key: value for key, value in values.items() if not key.startswith("_")}
    for key, value in known.items():
        if value == "none":  # a recipe's word for no value, which this file never has
            raise ValueError(f"{where}: {key} = 'none': must be null where there is no value")
    if class_name in ours:
        return _model_config({**known, "architecture": ours[class_name]}, where)
    for key, allowed in _UNET_FIXED.items():
        value = known.pop(key, allowed[0])
        if value not in allowed:
            raise ValueError(f"{where}: {key} = {shown(value)} is not supported (only {allowed[0]!r})")
    for key in known:
        if key not in _UNET_DEFAULTS:
            raise ValueError(f"{where}: key {shown(key)} is not supported{nearest(key, _UNET_DEFAULTS)}")
    merged = {**_UNET_DEFAULTS, **known}
    for key in ("down_block_types", "up_block_types"):
        if not isinstance(merged[key], list) or not all(isinstance(name, str) for name in merged[key]):
            raise ValueError(f"{where}: {key} = {shown(merged[key])}: must be a list of blocks")
        merged[key] = [name.removeprefix("UNetRes") for name in merged[key]]
    if merged["sample_size"] is None:
        step = 2 ** (len(merged["down_block_types"]) - 1)
        merged["sample_size"] = -(-32 // step) * step
    for key in ("attention_head_dim", "num_class_embeds", "attn_norm_num_groups"):
        if isinstance(merged[key], float) and merged[key].is_integer():
            merged[key] = int(merged[key])
    return _model_config(merged, where)


def _model_config(values: dict[str, Any], where: str) -> ModelConfig:
    try:
        return from_dict(ModelConfig, values, "model")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
