"""The images that a network is conditioned on: shrunken copies of its images, or images given beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from core.checkpoints.trained import Trained
from core.config import Recipe
from core.data.dataset import Dataset
from core.data.order import symmetry
from core.images import from_unit, resize


def shrunk(images: npt.NDArray[Any], factor: int) -> npt.NDArray[np.float64]:
    """Images (N, H, W, C) in [0, 1] at 1 / factor of their height and width, by antialiased bicubic resizing."""
    return resize(images, images.shape[1] // factor, images.shape[2] // factor)


def image_beside(
    small: npt.NDArray[Any], size: tuple[int, int], dtype: npt.DTypeLike, stretch: float = 0.0
) -> npt.NDArray[Any]:
    """The condition `image` of a network.

    Args:
        small: (N, h, w, C) images in [0, 1], or with noise around it. Where there is a stretch, values below 0 count
            as 0 after the images are enlarged.
        size: (H, W) of the result, which is (N, H, W, C) in [-1, 1].
        dtype: dtype of the result.
        stretch: process.stretch, which these images have as the drawn ones do.
    Source: Saharia et al. 2021, SR3, section 2.
    """
    return from_unit(resize(small, *size), stretch).astype(dtype)


def inputs_of(
    recipe: Recipe,
    dataset: Dataset,
    chosen: npt.NDArray[np.int64],
    images: npt.NDArray[Any],
    codes: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[Any]:
    """The images (B, h, w, C') that a network is conditioned on: shrunken copies, or those beside the images.

    Args:
        recipe: its data table says which.
        dataset: has the images beside.
        chosen: (B,) indices of images.
        images: (B, H, W, C) the chosen images, after augmentation.
        codes: (B,) codes of symmetry() that augmented them; None for none.
    """
    if recipe.data.low_resolution:
        return shrunk(images, recipe.data.low_resolution)
    if dataset.beside is None:
        raise ValueError("data.beside: no images beside those of the data set")
    beside = np.stack([dataset.beside[i] for i in chosen])
    return beside if codes is None else symmetry(beside, codes)


def beside_of(trained: Trained, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The condition `image` (N, H, W, C') of a trained network for inputs (N, h, w, C').

    Raises:
        ValueError: a network that is conditioned on no image, or inputs of another shape.
    """
    if trained.input_shape is None:
        raise ValueError("the network is conditioned on no image; train one with data.beside or data.low_resolution")
    if inputs.ndim != 4 or not len(inputs) or inputs.shape[1:] != trained.input_shape:
        height, width, channels = trained.input_shape
        raise ValueError(f"inputs: shape {inputs.shape}: must be (N, {height}, {width}, {channels})")
    return image_beside(inputs, trained.model.sample_size, trained.dtype, trained.process.stretch)
