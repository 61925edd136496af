"""What a network is conditioned on: classes, parameters of the images, and images.

A condition is a dict of arrays, which are keyword arguments of the network. `labels` (B,) int64 are classes. `vector`
(B, P) are parameters, standardised by the training images, and `keep` (B,) is 1 where they count. `image`
(B, H, W, C') is concatenated to x. An unconditional input has the label after the last class and keep 0, which makes
the network's vector zero.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from core.config import Recipe
from core.data.dataset import Dataset
from core.inference.images_beside import image_beside, inputs_of
from core.random import generator, integers

logger = logging.getLogger(__name__)

Condition = Mapping[str, np.ndarray]
CONDITIONS = ("labels", "vector", "keep", "image")
"""Names of the arrays, which are keywords of a network."""

ROWS = 4096
"""Number of training images whose parameters a checkpoint keeps, as values for parameters that are not given.

2,000 draws from so many rows are as far from held-out parameters as other training images are, within 12 %. The
Fréchet distance of four parameters with their squares and products is 0.108 from 4,096 rows, 0.283 from 512, and 0.096
from all 15,800. The rows take 300 kB.
"""


def check_condition(recipe: Recipe, dataset: Dataset) -> None:
    """Refuse data that do not hold what the network is conditioned on.

    Raises:
        ValueError: no labels or too many classes; a parameter that is unknown, not finite or the same in every image.
    """
    classes, source = recipe.classes, recipe.data.source
    if recipe.model.condition_channels and recipe.input_shape is None:
        raise ValueError(
            f"model.condition_channels = {recipe.model.condition_channels}: the data have no images to condition on; "
            "set data.beside or data.low_resolution, or use 0"
        )
    if classes is not None and dataset.labels is None:
        raise ValueError(
            f"model.num_class_embeds = {recipe.model.num_class_embeds}, but {source} has no class labels; "
            "sort the images into one folder a class, or leave num_class_embeds out"
        )
    if classes is not None and dataset.labels is not None and int(dataset.labels.max()) >= classes:
        none = ", one of them for no class" if recipe.training.condition_dropout else ""
        raise ValueError(
            f"model.num_class_embeds = {recipe.model.num_class_embeds}{none}, "
            f"but {source} has {int(dataset.labels.max()) + 1} classes"
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
    """Record of the parameters over the training images: names, mean, std, min, max, and rows of up to ROWS images.

    The rows have seven digits, as float32 has.
    """
    values = _numbers(recipe, dataset)[dataset.train]
    some = np.linspace(0, len(values) - 1, min(ROWS, len(values))).astype(int)
    columns = {"mean": values.mean(0), "std": values.std(0), "min": values.min(0), "max": values.max(0)}
    kept = {name: column.tolist() for name, column in columns.items()}
    rows = [[float(f"{value:.7g}") for value in row] for row in values[some]]
    return {"names": list(recipe.data.condition), **kept, "rows": rows}


def data_record(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint records of the data: its manifest, `class_names`, and statistics() as `condition`."""
    record = {**dataset.manifest, "class_names": list(dataset.class_names)}
    return {**record, "condition": statistics(recipe, dataset)} if recipe.data.condition else record


def training_condition(
    recipe: Recipe,
    dataset: Dataset,
    chosen: npt.NDArray[np.int64],
    images: npt.NDArray[Any],
    step: int,
    samples: Sequence[int],
    codes: npt.NDArray[np.int64] | None = None,
) -> Condition:
    """The condition of a training batch. The class and the parameters of an image are dropped together.

    Args:
        recipe: its model, data and training tables are read.
        dataset: labels and parameters.
        chosen: (B,) indices of images.
        images: (B, H, W, C) the chosen images in [0, 1], after augmentation.
        step: 0-based optimiser step. Which images lose their condition depends on it, on training.seed and on
            `samples`.
        samples: their B positions in the global batch.
        codes: as in inputs_of().
    Source: Ho & Salimans 2022, algorithm 1.
    """
    config, found = recipe.training, dict(own_images_condition(recipe, dataset, chosen, images, codes))
    if config.condition_dropout:
        draws = [generator(config.seed, "condition_dropout", i, step).random() for i in samples]
        dropped = np.array(draws) < config.condition_dropout
        if recipe.classes is not None:
            found["labels"] = np.where(dropped, recipe.classes, found["labels"])
        if "keep" in found:
            found["keep"] = (~dropped).astype(config.dtype)
    return found


def own_images_condition(
    recipe: Recipe,
    dataset: Dataset,
    chosen: npt.NDArray[np.int64],
    images: npt.NDArray[Any],
    codes: npt.NDArray[np.int64] | None = None,
) -> Condition:
    """The condition of given images of a data set, with nothing dropped. Arguments as in training_condition()."""
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
    if recipe.input_shape is not None:
        small = inputs_of(recipe, dataset, chosen, images, codes)
        found["image"] = image_beside(small, recipe.model.sample_size, dtype, recipe.process.stretch)
    return found


def no_condition(condition: Condition, classes: int | None) -> Condition:
    """The unconditional input for a condition: no class and no parameters. Its `image` stays.

    Args:
        condition: arrays by the network's keyword.
        classes: number of classes. The label `classes` means unconditional.
    """
    changed = dict(condition)
    if "labels" in condition:
        changed["labels"] = np.full_like(condition["labels"], classes)
    if "vector" in condition:
        changed["keep"] = np.zeros_like(condition["keep"])
    return changed


def own_condition(recipe: Recipe, dataset: Dataset, samples: Sequence[int], seed: int) -> Condition:
    """The condition of images drawn during training: asked_condition().

    A network that is conditioned on images has the conditions of held-out images, in turn; of training images where
    none are held out.
    """
    if recipe.input_shape is None:
        return asked_condition(recipe.classes, data_record(recipe, dataset), samples, seed, recipe.training.dtype)
    pool = dataset.held_out if len(dataset.held_out) else dataset.train
    chosen = pool[np.array(samples) % len(pool)]
    return own_images_condition(recipe, dataset, chosen, np.stack([dataset.images[i] for i in chosen]))


def asked_condition(
    classes: int | None,
    data: Mapping[str, Any],
    samples: Sequence[int],
    seed: int,
    dtype: str = "float32",
    class_name: str | None = None,
    numbers: Mapping[str, float] | None = None,
) -> Condition:
    """The condition of images to draw: classes, and parameters with their `keep`.

    Args:
        classes: number of classes; None for a network without classes.
        data: as data_record() returns it.
        samples: indices of the images.
        seed: with an image's index it chooses the training image whose parameters stand for those not given.
        dtype: dtype of the parameters.
        class_name: class of all images, by name or number; None takes the classes in turn.
        numbers: parameters by name, in the data's units. A value outside the training range causes a warning.
    Raises:
        ValueError: a class or a parameter that the network is not conditioned on.
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
                logger.warning(
                    "--param %s=%g: outside %.4g to %.4g, the range of the training images", name, value, low, high
                )
            values[:, place] = value
        found["vector"] = ((values - known["mean"]) / known["std"]).astype(dtype)
        found["keep"] = np.ones(len(samples), dtype)
    return found


def numbers_of(data: Mapping[str, Any], condition: Condition) -> dict[str, list[float]] | None:
    """The parameters of a condition by name, in the data's units; None for a network that takes no parameters."""
    known = data.get("condition")
    if known is None:
        return None
    values = condition["vector"].astype(np.float64) * known["std"] + known["mean"]
    return {name: np.round(column, 6).tolist() for name, column in zip(known["names"], values.T, strict=True)}


def class_labels(
    classes: int | None, data: Mapping[str, Any], samples: Sequence[int], name: str | None
) -> npt.NDArray[np.int64] | None:
    """Labels (B,) int64 of images to draw, None without classes; as asked_condition(), with `name` for class_name.

    Raises:
        ValueError: an unknown class, or any class for a network without classes.
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
    if name.isdecimal() and int(name) < classes:
        return np.full(len(samples), int(name), np.int64)
    raise ValueError(f"--class-name {name}: must be one of {', '.join(names)}")
