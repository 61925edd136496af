"""The network of chart coordinates as data: every parameter's name, shape and initialiser.

It is a multilayer perceptron over the D coordinates of a matrix. The noise level and the condition shift, scale and
gate every block, and each block starts as the identity (adaLN-zero). There are no convolutions, since coordinates have
no neighbours.

Source: Peebles & Xie 2023, Scalable diffusion models with transformers, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from core.config import ModelConfig
from core.networks.parameters import ParamSpec

CHART_TIME_CHANNELS = 64
"""Sines and cosines of the time embedding."""
CHART_NORM_EPS = 1e-6


def _layer(name: str, outputs: int, inputs: int, zero: bool = False) -> Iterator[tuple[str, ParamSpec]]:
    yield f"{name}.weight", ParamSpec((outputs, inputs), "linear", "zeros" if zero else "fan_avg")
    yield f"{name}.bias", ParamSpec((outputs,), "bias", "zeros")


def _specs(config: ModelConfig) -> Iterator[tuple[str, ParamSpec]]:
    width = config.block_out_channels[0]
    yield from _layer("time_embedding.linear_1", width, CHART_TIME_CHANNELS)
    yield from _layer("time_embedding.linear_2", width, width)
    if config.num_class_embeds is not None:
        yield "class_embedding.weight", ParamSpec((config.num_class_embeds, width), "embedding", "normal")
    if config.vector_channels:
        yield from _layer("vector_embedding.linear_1", width, config.vector_channels + 1)
        yield from _layer("vector_embedding.linear_2", width, width)
    yield from _layer("proj_in", width, config.in_channels)
    for i in range(config.layers_per_block):
        yield from _layer(f"blocks.{i}.modulation", 3 * width, width, zero=True)
        yield from _layer(f"blocks.{i}.linear_1", 2 * width, width)
        yield from _layer(f"blocks.{i}.linear_2", width, 2 * width)
    yield from _layer("norm_out.modulation", 2 * width, width, zero=True)
    yield from _layer("proj_out", config.out_channels, width, zero=True)


def chart_specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """Every parameter of the network, by canonical name, in a fixed order."""
    return dict(_specs(config))
