"""A trained network on disk: its parameters, its process, and its default sampler."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoints.chart import checked_chart
from core.checkpoints.importing import read_network
from core.checkpoints.scheduler_config import process_from_diffusers, sampling_from_diffusers
from core.config import DataConfig, ModelConfig, ProcessConfig, Recipe, SamplingConfig
from core.config.recipes import load_recipe
from core.reading import check_kinds, read_json, reading, shown
from core.spd.chart import Chart

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network: its configuration, its process and its default sampler."""

    model: ModelConfig
    process: ProcessConfig
    sampling: SamplingConfig
    dtype: str
    """float32 or float64."""
    data: dict[str, Any]
    """The record of the training data; empty for a network that others trained."""
    classes: int | None = None
    """Number of classes that an image can have; None for a network without."""
    drops: bool = False
    """Whether the network was trained as an unconditional one, too."""
    low_resolution: int = 0
    """How many times smaller than the image the image is that it is conditioned on; 0 for none."""
    input_shape: tuple[int, int, int] | None = None
    """(h, w, C') of the images that it is conditioned on, before they are enlarged; None for none."""
    beside: DataConfig | None = None
    """How the images beside were prepared, for a network trained with data.beside."""
    weights: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Every parameter by canonical name; empty while the network is still being trained."""
    files: tuple[Path, ...] = ()
    """The files of the weights."""
    chart: Chart | None = None
    """The chart of a network of positive definite matrices; None for images."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image."""
        return (*self.model.sample_size, self.model.image_channels)


def of_recipe(recipe: Recipe, data: dict[str, Any], chart: Chart | None = None) -> Trained:
    """What a recipe, the record of its data and the chart of its matrices say of the network."""
    drops = recipe.training.condition_dropout > 0
    return Trained(
        recipe.model, recipe.process, recipe.sampling, recipe.training.dtype, data, recipe.classes, drops,
        recipe.data.low_resolution, recipe.input_shape, recipe.data if recipe.data.beside else None, chart=chart,
    )  # fmt: skip


def open_trained(folder: Path, weights: str = "ema", changed_weights: bool = False) -> Trained:
    """The network, process and default sampler of a checkpoint, or of a diffusers pipeline folder.

    Args:
        folder: as core.checkpoints.checkpoint.resolve_checkpoint returns it.
        weights: 'ema', or 'raw' for the weights without averaging.
        changed_weights: accept weights of a checkpoint that were changed after it was saved.
    Raises:
        ValueError: a folder without a noise schedule, raw weights where there are none, weights that were changed,
            or a network that predicts more than an image.
    """
    network = read_network(folder, kind=weights, changed_weights=changed_weights)
    model, values, files = network.config, network.weights, network.files
    if (folder / "recipe.json").is_file():
        recipe = load_recipe(folder / "recipe.json")
        if recipe.model != model:
            raise ValueError(
                f"{folder}: recipe.json and unet/config.json are of different networks; use another checkpoint"
            )
        chart = checked_chart(folder, recipe)
        found = of_recipe(recipe, read_data(folder / "data.json", recipe), chart)
        return dataclasses.replace(found, weights=values, files=files)
    process, sampling = read_scheduler(_scheduler_of(folder))
    if model.in_channels != model.out_channels:
        raise ValueError(
            f"{folder}: out_channels = {model.out_channels}: only in_channels ({model.in_channels}) can be sampled"
        )
    return Trained(model, process, sampling, "float32", {}, model.num_class_embeds, weights=values, files=files)


def read_data(path: Path, recipe: Recipe) -> dict[str, Any]:
    """The record of the training data beside a checkpoint's recipe.

    Raises:
        ValueError: damaged, or without what the recipe's conditions need; the message names the file.
    """
    data, classes, names = read_json(path), recipe.classes, list(recipe.data.condition)
    class_names = data.get("class_names") or []
    if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
        raise ValueError(f"{path}: class_names is {shown(class_names)}: must be a list of texts")
    if classes is not None and len(class_names) > classes:
        raise ValueError(f"{path}: {len(class_names)} class_names: must be at most {classes}, as its recipe says")
    if names or data.get("condition") is not None:
        with reading(path, "a record of the training data", "use another checkpoint"):
            _check_condition(path, data, names)
    if recipe.data.beside and recipe.data.beside_normalise == "dataset":
        check_kinds(path, data, {"beside": dict})
        check_kinds(f"{path}: beside", data["beside"], {"extremes": list})
        ends = data["beside"]["extremes"]
        numbers = len(ends) == 2 and all(isinstance(end, int | float) and math.isfinite(end) for end in ends)
        if not numbers or ends[0] >= ends[1]:
            raise ValueError(f"{path}: extremes is {shown(ends)}: must be two numbers, the first below the second")
    return data


def _check_condition(path: Path, data: dict[str, Any], names: list[str]) -> None:
    """Raise ValueError where statistics of the parameters are missing, or are not numbers of these parameters."""
    check_kinds(path, data, {"condition": dict})
    known = data["condition"]
    check_kinds(f"{path}: condition", known, dict.fromkeys(("names", "mean", "std", "min", "max", "rows"), list))
    if known["names"] != names:
        raise ValueError(f"{path}: names is {shown(known['names'])}: must be {names}, as its recipe says")
    for key in ("mean", "std", "min", "max", "rows"):
        values = np.array(known[key])
        shape = (len(known["rows"]), len(names)) if key == "rows" else (len(names),)
        right = values.shape == shape and 0 not in shape and values.dtype.kind in "if" and np.isfinite(values).all()
        if not right or (key == "std" and values.min() <= 0):
            what = "above 0" if key == "std" else "finite"
            raise ValueError(
                f"{path}: {key} is {shown(known[key])}: must be numbers, {what}, of {len(names)} parameters"
            )
    with np.errstate(over="ignore"):
        scaled = (np.array(known["rows"]) - known["mean"]) / known["std"]
    if not np.abs(scaled).max() <= np.finfo(np.float32).max:
        raise ValueError(f"{path}: mean and std scale the rows beyond every number of float32; use another checkpoint")


def sampling_of(folder: Path) -> SamplingConfig:
    """How a checkpoint or pipeline folder is sampled where nothing else is said; its weights are not read."""
    if (folder / "recipe.json").is_file():
        return load_recipe(folder / "recipe.json").sampling
    return read_scheduler(_scheduler_of(folder))[1]


def _scheduler_of(folder: Path) -> Path:
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no scheduler/scheduler_config.json, so its noise schedule is unknown")
    return path


def read_scheduler(path: Path) -> tuple[ProcessConfig, SamplingConfig]:
    """The process and the sampler of a diffusers scheduler's file; what the sampler does otherwise is logged.

    Raises:
        ValueError: a process that is not supported, by name.
    """
    with reading(path, "a scheduler's configuration", "save the scheduler again"):
        values = read_json(path)
        process = process_from_diffusers(values, str(path))
        sampling, notes = sampling_from_diffusers(values, str(path))
    for note in notes:
        logger.warning("%s", note)
    return process, sampling
