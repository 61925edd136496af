"""What an image is asked to be: its class, its numbers, an image beside it; and none of these.

A condition is a dict of arrays that goes to the network by keyword: `labels` (B,) int64; `vector` (B, P), standardised
by the training images, with `keep` (B,), 1 where it counts; `image` (B, H, W, C'), put beside x. A dropped label is the
class after the last, a dropped vector has keep 0: the network then sees zeros alone. NumPy; imports no framework.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from core.config import Recipe
from core.data.dataset import Dataset
from core.images import from_unit, resize
from core.random import generator, integers

logger = logging.getLogger(__name__)

Condition = Mapping[str, np.ndarray]
CONDITIONS = ("labels", "vector", "keep", "image")
"""Names of the arrays; a network's keywords."""

ROWS = 512
"""Training images whose numbers are kept, to draw numbers from that nobody asked for."""


def check_condition(recipe: Recipe, dataset: Dataset) -> None:
    """Refuse data that do not hold what the network is conditioned on.

    Raises:
        ValueError: no labels or too many classes; a parameter that is unknown, not finite or the same in every image.
    """
    classes, source = recipe.classes, recipe.data.source
    if recipe.model.condition_channels and not recipe.data.low_resolution:
        raise ValueError(
            f"model.condition_channels = {recipe.model.condition_channels}: the data give no image beside the image; set data.low_resolution, or use 0"
        )
    if classes is not None and dataset.labels is None:
        raise ValueError(
            f"model.num_class_embeds = {recipe.model.num_class_embeds}, but {source} has no class labels; "
            "sort the images into one folder a class, or leave num_class_embeds out"
        )
    if classes is not None and dataset.labels is not None and int(dataset.labels.max()) >= classes:
        none = ", one of them for no class" if recipe.training.condition_dropout else ""
        raise ValueError(
            f"model.num_class_embeds = {recipe.model.num_class_embeds}{none}, but {source} has {int(dataset.labels.max()) + 1} classes"
        )
    for name in recipe.data.condition:
        if name not in dataset.parameters:
            known = ", ".join(dataset.parameters) or "none"
            raise ValueError(f"data.condition = {name!r}: must be a parameter of {source}'s images: {known}")
        values = dataset.parameters[name][dataset.train]
        if not np.isfinite(values).all() or values.min() == values.max():
            raise ValueError(
                f"data.condition = {name!r}: must be finite and differ between the training images of {source}"
            )


def _numbers(recipe: Recipe, dataset: Dataset) -> npt.NDArray[np.float64]:
    """(N, P) parameters of all images."""
    return np.stack([dataset.parameters[name] for name in recipe.data.condition], axis=1)


def statistics(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint says of the numbers: names; mean, std, min and max over the training images; rows of some of them."""
    values = _numbers(recipe, dataset)[dataset.train]
    some = np.linspace(0, len(values) - 1, min(ROWS, len(values))).astype(int)
    columns = {"mean": values.mean(0), "std": values.std(0), "min": values.min(0), "max": values.max(0)}
    kept = {name: column.tolist() for name, column in columns.items()}
    return {"names": list(recipe.data.condition), **kept, "rows": values[some].tolist()}


def data_record(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint says of the data: the manifest, the names of the classes, statistics of the numbers."""
    record = {**dataset.manifest, "class_names": list(dataset.class_names)}
    return {**record, "condition": statistics(recipe, dataset)} if recipe.data.condition else record


def shrunk(images: npt.NDArray[Any], factor: int) -> npt.NDArray[np.float64]:
    """(N, H, W, C) images in [0, 1] at 1 / factor of the size: antialiased bicubic."""
    return resize(images, images.shape[1] // factor, images.shape[2] // factor)


def image_beside(small: npt.NDArray[Any], size: tuple[int, int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The condition `image` of a super-resolution network: small images (N, h, w, C) in [0, 1], brought to the full size.

    Source: Saharia et al. 2021, SR3, section 2.
    """
    return from_unit(resize(small, *size)).astype(dtype)


def training_condition(
    recipe: Recipe, dataset: Dataset, chosen: npt.NDArray[np.int64], images: npt.NDArray[Any], step: int
) -> Condition:
    """The condition of a training batch; class and numbers of an image are dropped together.

    Args:
        recipe: model, data and training parts are used.
        dataset: labels and parameters.
        chosen: (B,) indices of images.
        images: (B, H, W, C) those images as they are trained on, in [0, 1].
        step: 0-based optimiser step, which with training.seed and the place in the batch keys what is dropped.
    Source: Ho & Salimans 2022, algorithm 1.
    """
    config, found = recipe.training, dict(own_images_condition(recipe, dataset, chosen, images))
    if config.condition_dropout:
        draws = [generator(config.seed, "condition_dropout", i, step).random() for i in range(len(chosen))]
        dropped = np.array(draws) < config.condition_dropout
        if recipe.classes is not None:
            found["labels"] = np.where(dropped, recipe.classes, found["labels"])
        if "keep" in found:
            found["keep"] = (~dropped).astype(config.dtype)
    return found


def own_images_condition(
    recipe: Recipe, dataset: Dataset, chosen: npt.NDArray[np.int64], images: npt.NDArray[Any]
) -> Condition:
    """The condition of given images of a data set, nothing dropped; arguments as training_condition()."""
    found, dtype = {}, recipe.training.dtype
    if recipe.classes is not None:
        if dataset.labels is None:  # check_condition has refused this before the first step
            raise ValueError("data.source: no class labels")
        found["labels"] = dataset.labels[chosen]
    if recipe.data.condition:
        values = _numbers(recipe, dataset)
        known = values[dataset.train]
        found["vector"] = ((values[chosen] - known.mean(0)) / known.std(0)).astype(dtype)
        found["keep"] = np.ones(len(chosen), dtype)
    if recipe.data.low_resolution:
        small = shrunk(images, recipe.data.low_resolution)
        found["image"] = image_beside(small, recipe.model.sample_size, dtype)
    return found


def no_condition(condition: Condition, classes: int | None) -> Condition:
    """The same images with neither class nor numbers; an image beside them stays.

    Args:
        condition: what is asked for.
        classes: classes that an image can have, so that the label `classes` stands for none.
    """
    changed = dict(condition)
    if "labels" in condition:
        changed["labels"] = np.full_like(condition["labels"], classes)
    if "vector" in condition:
        changed["keep"] = np.zeros_like(condition["keep"])
    return changed


def own_condition(recipe: Recipe, dataset: Dataset, samples: Sequence[int], seed: int) -> Condition:
    """The condition of images to draw while a network trains: as asked_condition, and low-resolution images where it
    takes them, held-out ones where there are some."""
    dtype = recipe.training.dtype
    found = dict(asked_condition(recipe.classes, data_record(recipe, dataset), samples, seed, dtype))
    if recipe.data.low_resolution:
        pool = dataset.held_out if len(dataset.held_out) else dataset.train
        images = np.stack([dataset.images[pool[i % len(pool)]] for i in samples])
        found["image"] = image_beside(shrunk(images, recipe.data.low_resolution), recipe.model.sample_size, dtype)
    return found


def weak_condition(recipe: Recipe, condition: Condition) -> Condition | None:
    """What guided rows of a recipe's own network move away from; None where it was not trained without its condition."""
    return no_condition(condition, recipe.classes) if recipe.training.condition_dropout else None


def asked_condition(
    classes: int | None,
    data: Mapping[str, Any],
    samples: Sequence[int],
    seed: int,
    dtype: str = "float32",
    class_name: str | None = None,
    numbers: Mapping[str, float] | None = None,
) -> Condition:
    """The condition of images to draw.

    Args:
        classes: classes that an image can have; None for a network without.
        data: as data_record gives it.
        samples: indices of the images.
        seed: with an image's index keys the numbers that are not given: those of one of the training images.
        dtype: of the numbers.
        class_name: class of all, by name or number; each in turn where None.
        numbers: values by name, in the data's units; a value outside the training range is warned of.
    Raises:
        ValueError: a class or a number that the network does not have.
    """
    found = {}
    labels = class_labels(classes, data, samples, class_name)
    if labels is not None:
        found["labels"] = labels
    known = data.get("condition")
    for name in numbers or {}:
        if known is None or name not in known["names"]:
            raise ValueError(f"--param {name}: must be one of {', '.join(known['names'] if known else []) or 'none'}")
    if known is not None:
        rows = np.array(known["rows"])
        values = rows[integers(seed, "condition", samples, 0, len(rows))]
        for name, value in (numbers or {}).items():
            place = known["names"].index(name)
            low, high = known["min"][place], known["max"][place]
            if not low <= value <= high:
                logger.warning("--param %s=%g: outside %.4g to %.4g, what the training images have", name, value, low, high)  # fmt: skip
            values[:, place] = value
        found["vector"] = ((values - known["mean"]) / known["std"]).astype(dtype)
        found["keep"] = np.ones(len(samples), dtype)
    return found


def numbers_of(data: Mapping[str, Any], condition: Condition) -> dict[str, list[float]] | None:
    """The numbers that images are asked for, by name and in the data's units; None where there are none."""
    known = data.get("condition")
    if known is None:
        return None
    values = condition["vector"].astype(np.float64) * known["std"] + known["mean"]
    return {name: np.round(column, 6).tolist() for name, column in zip(known["names"], values.T, strict=True)}


def class_labels(
    classes: int | None, data: Mapping[str, Any], samples: Sequence[int], name: str | None
) -> npt.NDArray[np.int64] | None:
    """Labels of the images to draw: all of one class (by name or number), or the classes in turn.

    Raises:
        ValueError: a class that the network does not have, or any class for an unconditional one.
    """
    if classes is None:
        if name is not None:
            raise ValueError(f"--class-name {name}: the network is not class-conditional")
        return None
    names = [str(n) for n in data.get("class_names") or range(classes)]
    if name is None:
        return np.array([i % len(names) for i in samples], np.int64)
    if name in names:
        return np.full(len(samples), names.index(name), np.int64)
    if name.isdigit() and int(name) < classes:
        return np.full(len(samples), int(name), np.int64)
    raise ValueError(f"--class-name {name}: must be one of {', '.join(names)}")
