"""The Inception network of the Fréchet Inception Distance as data: its layers and parameters.

Both twins build it from STAGES and evaluate it with the weights that `folded` gives. It is the graph that Google
published on 5 December 2015; parameters have the names of pytorch-fid's conversion of it (`pt_inception-2015-12-05`).
Its averages leave the padding out of the count. Its last block takes a maximum where the paper and the block before it
take an average.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from core.networks.parameters import check_tensors

NORM_EPS = 1e-3
CLASSES = 1008
WEIGHTS_FILE = "inception-2015-12-05.safetensors"
"""Name of the fetched weights in the cache."""


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, its BatchNorm and a ReLU; `padded` with zeros so that stride 1 keeps the size."""

    name: str
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: int = 1
    padded: bool = True


@dataclass(frozen=True)
class Pool:
    """Largest or mean of 3x3 pixels; with stride 1 at the borders of those that exist, with stride 2 inside only."""

    kind: Literal["max", "average"]
    stride: int


@dataclass(frozen=True)
class Fork:
    """Chains of layers that start from one input, their outputs concatenated over the channels."""

    branches: tuple[tuple[Layer, ...], ...]


Layer = Conv | Pool | Fork


@dataclass(frozen=True)
class Stage:
    """Layers up to a tap: the name of the features, `width` of them, that are the mean over the pixels there."""

    tap: str
    width: int
    layers: tuple[Layer, ...]


Row = tuple[str, int, int, int]
"""A convolution of a branch: name, channels, height and width of its kernel."""


def _branch(block: str, channels: int, *rows: Row, stride: int = 1) -> tuple[Layer, ...]:
    """Convolutions one after the other; the last one has the stride, and with 2 no padding."""
    layers = []
    for index, (name, out, height, width) in enumerate(rows):
        step = stride if index == len(rows) - 1 else 1
        layers.append(Conv(f"{block}.{name}", channels, out, (height, width), step, step == 1))
        channels = out
    return tuple(layers)


def _block_5(name: str, c: int, pooled: int) -> Fork:
    """InceptionA."""
    rows: tuple[Row, ...] = (("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 3), ("branch3x3dbl_3", 96, 3, 3))
    return Fork(
        (
            _branch(name, c, ("branch1x1", 64, 1, 1)),
            _branch(name, c, ("branch5x5_1", 48, 1, 1), ("branch5x5_2", 64, 5, 5)),
            _branch(name, c, *rows),
            (Pool("average", 1), *_branch(name, c, ("branch_pool", pooled, 1, 1))),
        )
    )


def _block_6a(name: str, c: int) -> Fork:
    """InceptionB."""
    rows: tuple[Row, ...] = (("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 3), ("branch3x3dbl_3", 96, 3, 3))
    return Fork(
        (
            _branch(name, c, ("branch3x3", 384, 3, 3), stride=2),
            _branch(name, c, *rows, stride=2),
            (Pool("max", 2),),
        )
    )


def _block_6(name: str, c: int, inner: int) -> Fork:
    """InceptionC."""
    short: tuple[Row, ...] = (("branch7x7_1", inner, 1, 1), ("branch7x7_2", inner, 1, 7), ("branch7x7_3", 192, 7, 1))
    long: tuple[Row, ...] = (
        ("branch7x7dbl_1", inner, 1, 1),
        ("branch7x7dbl_2", inner, 7, 1),
        ("branch7x7dbl_3", inner, 1, 7),
        ("branch7x7dbl_4", inner, 7, 1),
        ("branch7x7dbl_5", 192, 1, 7),
    )
    return Fork(
        (
            _branch(name, c, ("branch1x1", 192, 1, 1)),
            _branch(name, c, *short),
            _branch(name, c, *long),
            (Pool("average", 1), *_branch(name, c, ("branch_pool", 192, 1, 1))),
        )
    )


def _block_7a(name: str, c: int) -> Fork:
    """InceptionD."""
    long: tuple[Row, ...] = (
        ("branch7x7x3_1", 192, 1, 1),
        ("branch7x7x3_2", 192, 1, 7),
        ("branch7x7x3_3", 192, 7, 1),
        ("branch7x7x3_4", 192, 3, 3),
    )
    return Fork(
        (
            _branch(name, c, ("branch3x3_1", 192, 1, 1), ("branch3x3_2", 320, 3, 3), stride=2),
            _branch(name, c, *long, stride=2),
            (Pool("max", 2),),
        )
    )


def _block_7(name: str, c: int, pool: Literal["average", "max"]) -> Fork:
    """InceptionE: two of its branches end in a 1x3 and a 3x1 convolution side by side."""

    def halves(branch: str) -> Fork:
        return Fork((_branch(name, 384, (f"{branch}a", 384, 1, 3)), _branch(name, 384, (f"{branch}b", 384, 3, 1))))

    return Fork(
        (
            _branch(name, c, ("branch1x1", 320, 1, 1)),
            (*_branch(name, c, ("branch3x3_1", 384, 1, 1)), halves("branch3x3_2")),
            (
                *_branch(name, c, ("branch3x3dbl_1", 448, 1, 1), ("branch3x3dbl_2", 384, 3, 3)),
                halves("branch3x3dbl_3"),
            ),
            (Pool(pool, 1), *_branch(name, c, ("branch_pool", 192, 1, 1))),
        )
    )


STAGES = (
    Stage(
        "64",
        64,
        (
            Conv("Conv2d_1a_3x3", 3, 32, (3, 3), 2, padded=False),
            Conv("Conv2d_2a_3x3", 32, 32, (3, 3), padded=False),
            Conv("Conv2d_2b_3x3", 32, 64, (3, 3)),
            Pool("max", 2),
        ),
    ),
    Stage(
        "192",
        192,
        (
            Conv("Conv2d_3b_1x1", 64, 80, (1, 1)),
            Conv("Conv2d_4a_3x3", 80, 192, (3, 3), padded=False),
            Pool("max", 2),
        ),
    ),
    Stage(
        "768",
        768,
        (
            _block_5("Mixed_5b", 192, 32),
            _block_5("Mixed_5c", 256, 64),
            _block_5("Mixed_5d", 288, 64),
            _block_6a("Mixed_6a", 288),
            _block_6("Mixed_6b", 768, 128),
            _block_6("Mixed_6c", 768, 160),
            _block_6("Mixed_6d", 768, 160),
            _block_6("Mixed_6e", 768, 192),
        ),
    ),
    Stage(
        "2048",
        2048,
        (_block_7a("Mixed_7a", 768), _block_7("Mixed_7b", 1280, "average"), _block_7("Mixed_7c", 2048, "max")),
    ),
)
TAPS = (*(stage.tap for stage in STAGES), "logits_unbiased", "logits")
"""Names of the features; logits_unbiased, which the Inception score takes, are the logits without the bias of `fc`."""


def convolutions(layers: tuple[Layer, ...] | None = None) -> Iterator[Conv]:
    """Every convolution of some layers, or of the whole network, in the order of evaluation."""
    for layer in [layer for stage in STAGES for layer in stage.layers] if layers is None else layers:
        if isinstance(layer, Conv):
            yield layer
        elif isinstance(layer, Fork):
            for branch in layer.branches:
                yield from convolutions(branch)


@functools.cache
def inception_shapes() -> Mapping[str, tuple[int, ...]]:
    """Shape of every parameter by its published name; kernels OIHW, `fc.weight` (out, in)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv in convolutions():
        shapes[f"{conv.name}.conv.weight"] = (conv.out_channels, conv.in_channels, *conv.kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{conv.name}.bn.{part}"] = (conv.out_channels,)
    return shapes | {"fc.weight": (CLASSES, STAGES[-1].width), "fc.bias": (CLASSES,)}


def check_inception(weights: Mapping[str, np.ndarray], where: str) -> None:
    """Demand exactly the network's parameters: names, shapes, finite values.

    Raises:
        ValueError: a parameter is missing, left over, of another shape, or not finite; the message names it.
    """
    check_tensors(weights, inception_shapes(), where)


def folded(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every convolution with its BatchNorm as one convolution with bias, which is exact at evaluation.

    Args:
        weights: every parameter by its published name.
    Returns:
        `NAME.weight` (OIHW) and `NAME.bias` of every convolution and of `fc`, float64.
    Source: Ioffe and Szegedy 2015, algorithm 2: y = gamma (x - mean) / sqrt(variance + eps) + beta.
    """
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    found = {"fc.weight": w["fc.weight"], "fc.bias": w["fc.bias"]}
    for conv in convolutions():
        norm = f"{conv.name}.bn"
        scale = w[f"{norm}.weight"] / np.sqrt(w[f"{norm}.running_var"] + NORM_EPS)
        found[f"{conv.name}.weight"] = w[f"{conv.name}.conv.weight"] * scale[:, None, None, None]
        found[f"{conv.name}.bias"] = w[f"{norm}.bias"] - w[f"{norm}.running_mean"] * scale
    return found
