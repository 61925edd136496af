"""Images that a user gives to a verb: a run's held-out images, or files, of the network's size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.config import ModelConfig
from core.config.recipes import load_recipe
from core.data.dataset import open_dataset
from core.data.pixels import to_float
from core.data.sources import open_source
from core.inference.conditioning import Condition, own_images_condition

HELD_OUT = "held-out"


@dataclass(frozen=True)
class GivenImages:
    """Images, their condition, and their origin."""

    images: np.ndarray
    """(N, H, W, C) float32 in [0, 1]."""
    condition: Condition | None
    """What the network is conditioned on for each image; None for files, which do not record it."""
    identity: dict[str, Any]
    """Origin of the images, for a manifest."""


def given_images(where: str, folder: Path, model: ModelConfig, first: int, count: int, factor: int = 1) -> GivenImages:
    """Images `first` to `first + count` of a run's held-out images, or of files.

    Args:
        where: held-out, a picture, or anything that core.data.sources.open_source() opens.
        folder: checkpoint whose recipe names the held-out images.
        model: configuration of the network, for the size and channels.
        first: index of the first image.
        count: number of images.
        factor: factor by which the images of files are smaller than the network's.
    Raises:
        ValueError: fewer images, another size, values outside [0, 1], or a checkpoint without a recipe.
    """
    shape = (*model.sample_size, model.image_channels)
    if where == HELD_OUT:
        path = folder / "recipe.json"
        if not path.is_file():
            raise ValueError(
                f"{folder}: no recipe.json, so nothing says which images were held out; give a file of images"
            )
        recipe = load_recipe(path)
        dataset = open_dataset(recipe.data, shape)
        chosen = dataset.held_out[first : first + count]
        _check_count(
            len(dataset.held_out), first, count, "held-out images; raise data.held_out, or give a file of images"
        )
        images = np.asarray(dataset.images[chosen])
        identity = {"path": HELD_OUT, "data_sha256": dataset.manifest["sha256"], "indices": chosen.tolist()}
        return GivenImages(images, own_images_condition(recipe, dataset, chosen, images), identity)
    source = open_source(where, shape[2])
    _check_count(len(source.names), first, count, f"images in {where}")
    size = (shape[0] // factor, shape[1] // factor)
    images = np.empty((count, *size, shape[2]), np.float32)
    for index in range(count):
        name = source.names[first + index]
        values = to_float(source.read(first + index))
        if values.min() < 0 or values.max() > 1:
            raise ValueError(
                f"{name}: values from {values.min():.6g} to {values.max():.6g}: must be in [0, 1], or integers"
            )
        images[index] = _of_size(values, size, name)
    return GivenImages(images, None, {"path": where, "first": first, **source.identity})


def _check_count(there: int, first: int, count: int, what: str) -> None:
    if first + count > there:
        raise ValueError(f"--first {first} --n {count}: must be at most {there} together, the number of {what}")


def _of_size(image: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    if image.shape[:2] != size:
        found = "x".join(map(str, image.shape[:2]))
        raise ValueError(f"{name}: {found} pixels: must have {size[0]}x{size[1]}, as the network takes")
    return image
