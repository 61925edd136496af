"""Images that a user gives to a verb: a run's held-out images, or files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoints.trained import Trained
from core.config.recipes import load_recipe
from core.data.dataset import open_dataset
from core.data.pixels import UNIT, fit, scale, to_float
from core.data.prepare import Preparation
from core.data.sources import CHANNELS, open_source
from core.inference.conditioning import Condition, own_images_condition
from core.inference.images_beside import inputs_of

HELD_OUT = "held-out"


@dataclass(frozen=True)
class GivenImages:
    """Images, their condition, and their origin."""

    images: np.ndarray
    """(N, H, W, C) float32 in [0, 1]; or inputs (N, h, w, C'), the images that a network is conditioned on."""
    condition: Condition | None
    """What the network is conditioned on for each image; None for files, which do not record it."""
    identity: dict[str, Any]
    """Origin of the images, for a manifest."""
    originals: np.ndarray | None = None
    """(N, H, W, C), the held-out images that belong to inputs; None for files."""
    names: list[str] = field(default_factory=list)
    """Name of each image: its file, or its index in the run's data."""


def given_images(
    where: str,
    folder: Path,
    trained: Trained,
    first: int,
    count: int,
    inputs: bool = False,
    cyclic: bool = False,
    fewer: bool = False,
) -> GivenImages:
    """Images `first` to `first + count` of a run's held-out images, or of files.

    Args:
        where: held-out, a picture, or anything that core.data.sources.open_source() opens.
        folder: checkpoint whose recipe names the held-out images.
        trained: the network, for size, channels and how its inputs were prepared.
        first: index of the first image.
        count: number of images.
        inputs: whether to take the images that the network is conditioned on, in place of those that it draws.
        cyclic: whether the first image follows the last one, so that any count is allowed.
        fewer: whether all images from `first` on are taken where they are fewer than count.
    Raises:
        ValueError: fewer images, another size, values outside the range, or a checkpoint without a recipe.
    """
    if where == HELD_OUT:
        return _held_out(folder, trained, first, count, inputs, cyclic, fewer)
    shape, how, keys = trained.image_shape, Preparation("exact", "none"), CHANNELS
    if inputs and trained.input_shape is not None:
        shape, how, keys = trained.input_shape, preparation_of(trained), "model.condition_channels"
    source = open_source(where, shape[2], keys)
    places = _places(len(source.names), first, count, cyclic, fewer, f"images in {where}")
    ends = trained.data.get("beside", {}).get("extremes", UNIT) if how.beside else UNIT
    images = np.empty((len(places), *shape), np.float32)
    for index, place in enumerate(places):
        images[index] = _prepared(source.read(place), source.names[place], shape[:2], how, ends)
    names = [source.names[place] for place in places]
    return GivenImages(images, None, {"path": where, "first": first, **source.identity}, names=names)


def preparation_of(trained: Trained) -> Preparation:
    """How the images that a network is conditioned on are prepared."""
    data = trained.beside
    if data is None:
        return Preparation("exact", "none")
    return Preparation(data.beside_fit, data.beside_normalise, beside=True)


def _held_out(
    folder: Path, trained: Trained, first: int, count: int, inputs: bool, cyclic: bool, fewer: bool
) -> GivenImages:
    """Held-out images of a run's data."""
    path = folder / "recipe.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no recipe.json, so nothing says which images were held out; give a file of images")
    recipe = load_recipe(path)
    dataset = open_dataset(recipe.data, trained.image_shape, recipe.model.condition_channels)
    what = "held-out images; raise data.held_out, or give a file of images"
    chosen = dataset.held_out[_places(len(dataset.held_out), first, count, cyclic, fewer, what)]
    images = np.stack([dataset.images[i] for i in chosen])
    condition = own_images_condition(recipe, dataset, chosen, images)
    identity = {"path": HELD_OUT, "data_sha256": dataset.manifest["sha256"], "indices": chosen.tolist()}
    if not inputs:
        return GivenImages(images, condition, identity, names=[str(index) for index in chosen])
    return GivenImages(inputs_of(recipe, dataset, chosen, images), condition, identity, images)


def _places(there: int, first: int, count: int, cyclic: bool, fewer: bool, what: str) -> list[int]:
    """Positions of the images that were asked for among those that are there."""
    if fewer:
        count = min(count, there - first)
    if cyclic and there:
        return [i % there for i in range(first, first + count)]
    if first + count > there:
        raise ValueError(f"--first {first} --n {count}: must be at most {there} together, the number of {what}")
    return [*range(first, first + count)]


def _prepared(
    image: np.ndarray, name: str, size: tuple[int, int], how: Preparation, ends: tuple[float, float]
) -> np.ndarray:
    """An image of a file, prepared as the network's images were."""
    values = to_float(image) if how.normalise == "none" else scale(image, name, how.normalise, *ends)
    low, high = how.bounds
    if how.normalise == "none" and (values.min() < low or values.max() > high):
        raise ValueError(
            f"{name}: values from {values.min():.6g} to {values.max():.6g}: must be in [{low:g}, {high:g}], or integers"
        )
    if how.fit != "exact":
        return fit(values, size, how.fit, name, "the recipe's data.beside_fit =", how.bounds)
    if values.shape[:2] != size:
        found = "x".join(map(str, values.shape[:2]))
        raise ValueError(f"{name}: {found} pixels: must have {size[0]}x{size[1]}, as the network takes")
    return values
