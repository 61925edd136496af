"""The baseline network as data: its stages, and every parameter's name, shape and initialiser.

It is the U-Net that this project compares itself with (dome272/Diffusion-Models-pytorch, `modules.py`), at any size,
channel count and width. Names and layout are those of its state_dict, so reading one is a check, not a conversion. The
original calls its network with t in [1, 1000) and takes row t of its schedule's tables. Our t is 0-based and means the
same row: equal t is equal noise, and the original never trained t = 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from core.config import ModelConfig
from core.networks.parameters import ParamSpec, check_tensors

BASELINE_TIME_CHANNELS = 256
HEADS = 4
NORM_EPS = 1e-5  # of every GroupNorm (of one group) and LayerNorm: PyTorch's default


@dataclass(frozen=True)
class Stage:
    """One attribute of the network: two convolutions, a level down or up, or attention (whose channels are equal)."""

    name: str
    kind: Literal["double_conv", "down", "up", "attention"]
    in_channels: int
    out_channels: int


def baseline_plan(config: ModelConfig) -> tuple[Stage, ...]:
    """The stages between the input and `outc`, a 1x1 convolution.

    The in_channels of an Up are those after its concatenation.

    Source: dome272/Diffusion-Models-pytorch, modules.py, `UNet.__init__`, where c = 64.
    """
    c = config.block_out_channels[0]
    return (
        Stage("inc", "double_conv", config.in_channels, c),
        Stage("down1", "down", c, 2 * c),
        Stage("sa1", "attention", 2 * c, 2 * c),
        Stage("down2", "down", 2 * c, 4 * c),
        Stage("sa2", "attention", 4 * c, 4 * c),
        Stage("down3", "down", 4 * c, 4 * c),
        Stage("sa3", "attention", 4 * c, 4 * c),
        Stage("bot1", "double_conv", 4 * c, 8 * c),
        Stage("bot2", "double_conv", 8 * c, 8 * c),
        Stage("bot3", "double_conv", 8 * c, 4 * c),
        Stage("up1", "up", 8 * c, 2 * c),
        Stage("sa4", "attention", 2 * c, 2 * c),
        Stage("up2", "up", 4 * c, c),
        Stage("sa5", "attention", c, c),
        Stage("up3", "up", 2 * c, c),
        Stage("sa6", "attention", c, c),
    )


Specs = Iterator[tuple[str, ParamSpec]]


def _layer(name: str, kind: Literal["conv", "linear"], shape: tuple[int, ...], bias: bool = True) -> Specs:
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    yield f"{name}.weight", ParamSpec(shape, kind, "uniform", bound)
    if bias:
        yield f"{name}.bias", ParamSpec(shape[:1], "bias", "uniform", bound)


def _norm(name: str, channels: int) -> Specs:
    yield f"{name}.weight", ParamSpec((channels,), "norm", "ones")
    yield f"{name}.bias", ParamSpec((channels,), "bias", "zeros")


def _double_conv(name: str, c_in: int, c_out: int, c_mid: int | None = None) -> Specs:
    c_mid = c_mid or c_out
    yield from _layer(f"{name}.double_conv.0", "conv", (c_mid, c_in, 3, 3), bias=False)
    yield from _norm(f"{name}.double_conv.1", c_mid)
    yield from _layer(f"{name}.double_conv.3", "conv", (c_out, c_mid, 3, 3), bias=False)
    yield from _norm(f"{name}.double_conv.4", c_out)


def _attention(name: str, c: int) -> Specs:
    yield f"{name}.mha.in_proj_weight", ParamSpec((3 * c, c), "linear", "fan_avg")
    yield f"{name}.mha.in_proj_bias", ParamSpec((3 * c,), "bias", "zeros")
    yield f"{name}.mha.out_proj.weight", ParamSpec((c, c), "linear", "uniform", 1 / math.sqrt(c))
    yield f"{name}.mha.out_proj.bias", ParamSpec((c,), "bias", "zeros")
    yield from _norm(f"{name}.ln", c)
    yield from _norm(f"{name}.ff_self.0", c)
    yield from _layer(f"{name}.ff_self.1", "linear", (c, c))
    yield from _layer(f"{name}.ff_self.3", "linear", (c, c))


def _stage(stage: Stage) -> Specs:
    name, c_in, c_out = stage.name, stage.in_channels, stage.out_channels
    if stage.kind == "attention":
        yield from _attention(name, c_in)
    elif stage.kind == "double_conv":
        yield from _double_conv(name, c_in, c_out)
    else:
        # Before its two double convolutions a Down pools, so that they are numbers 1 and 2 there.
        path, first = (f"{name}.maxpool_conv", 1) if stage.kind == "down" else (f"{name}.conv", 0)
        yield from _double_conv(f"{path}.{first}", c_in, c_in)
        yield from _double_conv(f"{path}.{first + 1}", c_in, c_out, c_in // 2 if stage.kind == "up" else None)
        yield from _layer(f"{name}.emb_layer.1", "linear", (c_out, BASELINE_TIME_CHANNELS))


def baseline_specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """Every parameter of the baseline network, by the original's name, in the original's order.

    Initial weights are distributed as PyTorch's layers draw theirs: kernels, matrices and their biases uniform within
    1 / sqrt(fan_in), which is Kaiming's with a = sqrt(5); attention's joint projection Xavier-uniform (`fan_avg`), its
    biases zero; norms one and zero; class embeddings standard normal.

    Source: torch.nn 2.13, `reset_parameters` of Conv2d, Linear, MultiheadAttention and Embedding.
    """
    specs = {name: spec for stage in baseline_plan(config) for name, spec in _stage(stage)}
    specs |= dict(_layer("outc", "conv", (config.out_channels, config.block_out_channels[0], 1, 1)))
    if config.num_class_embeds is not None:
        shape = (config.num_class_embeds, BASELINE_TIME_CHANNELS)
        specs["label_emb.weight"] = ParamSpec(shape, "embedding", "normal")
    return specs


def baseline_from_state_dict(
    tensors: Mapping[str, np.ndarray], sample_size: tuple[int, int] = (64, 64), where: str = "state_dict"
) -> ModelConfig:
    """The configuration of a state_dict of the original: channels, width and classes from the tensors' shapes.

    Args:
        tensors: every parameter by the original's name, without a `module.` before it.
        sample_size: height and width in pixels, which the tensors do not tell.
        where: the file's name, for messages.
    Raises:
        ValueError: tensors missing, left over, or of a shape that this width does not have; a size that does not fit.
    """
    for name in ("inc.double_conv.0.weight", "outc.weight"):
        if name not in tensors or tensors[name].ndim != 4:
            raise ValueError(
                f"{where}: not the weights of the baseline network: no convolution {name}; "
                "any other network is imported by its folder"
            )
    first, in_channels = tensors["inc.double_conv.0.weight"].shape[:2]
    classes = tensors["label_emb.weight"].shape[0] if "label_emb.weight" in tensors else None
    try:
        config = ModelConfig(
            sample_size,
            in_channels,
            tensors["outc.weight"].shape[0],
            num_class_embeds=classes,
            block_out_channels=(first, 2 * first, 4 * first, 4 * first),
            architecture="baseline",
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    check_tensors(tensors, {name: spec.shape for name, spec in baseline_specs(config).items()}, where)
    return config


def bilinear_matrix(size: int) -> np.ndarray:
    """What doubles a line of pixels, (2 size, size) float64: linear, first on first and last on last (align_corners).

    Row i interpolates at i (size - 1) / (2 size - 1), with weights max(0, 1 - distance).
    """
    at = np.arange(2 * size) * (size - 1) / (2 * size - 1)
    weights: np.ndarray = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(size)))
    return weights
