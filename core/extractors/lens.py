"""The feature extractor for images of strong lenses, as data: its layers, parameters, inputs and outputs.

A small convolutional network, trained once on simulated lenses by torch_impl/train_lens_extractor.py. It predicts what
made an image (Einstein radius, shear, source, substructure), and whether the image was blurred or made noisier
afterwards. Its weights stand beside this module, so it needs no download. Images are prepared here; each twin evaluates
the network in its lens_extractor.py.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.images import resize
from core.metrics.pixels import Images, check_images
from core.networks.parameters import ParamSpec, check_tensors
from core.random import generator

SIDE = 64
SMALLEST, LARGEST = 32, 150
"""Sides in pixels that the network was trained on; images of other sides are refused."""

STRETCH = 0.02
"""Intensity where the second input channel turns from linear to logarithmic."""

SKY_NOISE = 0.003
"""Intensity of the preset's noise where the sky is dark."""

CHANNELS = 3
BLOCK = 256  # images evaluated at a time
FEATURES = 128
LENS_PARAMETERS = ("theta_e", "gamma1", "source_x", "source_y", "source_e1", "source_e2")
QUALITY = ("blur", "noise")
"""How an image was degraded; both are 0 for images as they are simulated.

blur is the width of a Gaussian blur, in pixels of 64. noise is log(1 + sigma^2 / .003^2) / 2 for white noise of
standard deviation sigma: the logarithm of how much it raises the noise of the sky."""

PARAMETERS = LENS_PARAMETERS + QUALITY
ANGLES = ("theta_e", "source_x", "source_y")
"""Parameters that the network gives in units of the field's side, since an image does not show its side in arcsec."""

CLASSES = 3  # core.data.lenses.CLASSES, in that order
HEADS = {"parameters": len(PARAMETERS), "logits": CLASSES}
"""Outputs and their widths; the linear layer of each is called to_NAME."""


@dataclass(frozen=True)
class Convolution:
    """A convolution over an image padded by `padding` zeros on all four sides, then SiLU."""

    name: str
    in_channels: int
    out_channels: int
    size: int
    stride: int
    padding: int


# The last one spans the whole 4 x 4 map: a pooling with weights, which unlike a mean keeps where things are.
CONVOLUTIONS = (
    Convolution("conv1", CHANNELS, 32, 5, 2, 2),  # 64 -> 32
    Convolution("conv2", 32, 32, 3, 1, 1),
    Convolution("conv3", 32, 64, 3, 2, 1),  # -> 16
    Convolution("conv4", 64, 64, 3, 1, 1),
    Convolution("conv5", 64, 96, 3, 2, 1),  # -> 8
    Convolution("conv6", 96, 96, 3, 1, 1),
    Convolution("conv7", 96, 64, 3, 2, 1),  # -> 4
    Convolution("pool", 64, FEATURES, 4, 1, 0),  # -> 1
)


def _specs() -> Iterator[tuple[str, ParamSpec]]:
    for c in CONVOLUTIONS:
        # Kaiming's bound for rectifiers, sqrt(6 / fan_in), which keeps the variance from layer to layer.
        bound = math.sqrt(6 / (c.in_channels * c.size**2))
        shape = (c.out_channels, c.in_channels, c.size, c.size)
        yield f"{c.name}.weight", ParamSpec(shape, "conv", "uniform", bound)
        yield f"{c.name}.bias", ParamSpec((c.out_channels,), "bias", "zeros")
    for name, width in HEADS.items():
        yield f"to_{name}.weight", ParamSpec((width, FEATURES), "linear", "uniform", math.sqrt(3 / FEATURES))
        yield f"to_{name}.bias", ParamSpec((width,), "bias", "zeros")


PARAM_SPECS = dict(_specs())
"""Every parameter by name, OIHW and (out, in)."""


def check_lens_weights(weights: Mapping[str, np.ndarray], where: str) -> None:
    """Demand exactly the extractor's parameters.

    Raises:
        ValueError: a parameter is missing, left over, of another shape, or not finite; the message names it.
    """
    check_tensors(weights, {name: spec.shape for name, spec in PARAM_SPECS.items()}, where)


def initial_weights(seed: int, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Weights before training.

    Args:
        seed: in [0, 2^63).
        dtype: of the returned arrays; the draw itself is float64.
    Source: He et al. 2015, equation 10, uniform.
    """
    weights = {}
    for name, spec in PARAM_SPECS.items():
        rng = generator(seed, "init", zlib.crc32(name.encode()), 0)
        weights[name] = (rng.uniform(-1, 1, spec.shape) * spec.bound).astype(dtype)
    return weights


def check_channels(channels: int) -> None:
    """Raise ValueError where the network does not take images with this number of channels."""
    if channels != 1:
        raise ValueError(
            f"images: {channels} channels: the lens extractor takes 1; choose one channel, "
            "or measure them with `python -m eval fid --extractor pixels`"
        )


def prepare(images: Images, dtype: npt.DTypeLike = np.float32) -> Iterator[np.ndarray]:
    """The network's input, in blocks.

    Args:
        images: (N, H, W, 1) in [0, 1], H = W from 32 to 150 pixels.
        dtype: of the result; the arithmetic is float64.
    Returns:
        An iterator over (B, 64, 64, 3), B up to 256: `channels` of the images, resized (antialiased bicubic) and not
        clipped.
    Raises:
        ValueError: images that `core.metrics.pixels.check_images` refuses, of another size, or of several channels.
    """
    check_images(images)
    _, height, width, depth = images.shape
    check_channels(depth)
    if height != width or not SMALLEST <= height <= LARGEST:
        raise ValueError(
            f"images: {height} x {width} pixels: the lens extractor takes squares of {SMALLEST} to {LARGEST} pixels"
        )
    blocks = (resize(images[start : start + BLOCK], SIDE, SIDE) for start in range(0, len(images), BLOCK))
    return (channels(block).astype(dtype) for block in blocks)


def channels(x: npt.NDArray[np.floating[Any]]) -> np.ndarray:
    """The three channels that the network sees of an image: itself, its faint parts stretched, and its grain.

    Args:
        x: (B, 64, 64, 1) float.
    Returns:
        (B, 64, 64, 3), dtype of x: x; asinh(x / .02) / asinh(1 / .02); asinh(h / .003), h a pixel less the mean of its
        four neighbours, the edge's value going on outside. Without the last, noise as faint as the sky's is lost to it.
    """
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    neighbours = wide[:, 2:, 1:-1] + wide[:, :-2, 1:-1] + wide[:, 1:-1, 2:] + wide[:, 1:-1, :-2]
    grain = np.arcsinh((x - neighbours / 4) / SKY_NOISE)
    return np.concatenate([x, np.arcsinh(x / STRETCH) / math.asinh(1 / STRETCH), grain], axis=-1)


def in_arcsec(parameters: npt.ArrayLike, field_of_view: float) -> dict[str, np.ndarray]:
    """The network's parameters by name, angles in arcsec.

    Args:
        parameters: (N, 8), angles in units of the field's side.
        field_of_view: side of the images in arcsec, above 0.
    Raises:
        ValueError: another number of parameters, or a field that is not above 0.
    """
    values = np.asarray(parameters, np.float64)
    if values.ndim != 2 or values.shape[1] != len(PARAMETERS):
        raise ValueError(f"parameters: shape {values.shape}: must be (N, {len(PARAMETERS)})")
    if not 0 < field_of_view < math.inf:
        raise ValueError(f"field_of_view = {field_of_view}: must be above 0 arcsec")
    return {n: values[:, i] * (field_of_view if n in ANGLES else 1.0) for i, n in enumerate(PARAMETERS)}
