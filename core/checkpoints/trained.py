"""A trained network on disk: its parameters, its process, and its default sampler."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoints.importing import read_network
from core.checkpoints.scheduler_config import process_from_diffusers, sampling_from_diffusers
from core.config import ModelConfig, ProcessConfig, SamplingConfig
from core.config.recipes import load_recipe
from core.files import read_json, read_tensors
from core.networks.specs import check_weights

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Source:
    """A trained network on disk, from which images are drawn."""

    model: ModelConfig
    process: ProcessConfig
    sampling: SamplingConfig
    weights: dict[str, np.ndarray]
    weights_files: tuple[Path, ...]
    dtype: str
    data: dict[str, Any]
    classes: int | None = None
    """Classes that an image can have."""
    drops: bool = False
    """Whether the network was trained without its condition, too."""


def open_source(folder: Path, weights: str) -> Source:
    """The network, process and default sampler of a checkpoint, or of a diffusers pipeline folder.

    Args:
        folder: as core.checkpoints.checkpoint.resolve_checkpoint returns it.
        weights: 'ema', or 'raw' for the weights without averaging.
    Raises:
        ValueError: a folder without a noise schedule, raw weights asked for where there are none, or a network that
            predicts more than an image.
    """
    network = read_network(folder)
    model, values, files = network.config, network.weights, network.files
    if weights == "raw":
        path = folder / "training_state.safetensors"
        if not path.is_file():
            raise ValueError(f"--weights raw: {folder} has no training state, only one set of weights; use ema")
        values = {n.removeprefix("params/"): v for n, v in read_tensors(path).items() if n.startswith("params/")}
        check_weights(values, model, str(path))
        files = (path,)
    if (folder / "recipe.json").is_file():
        recipe = load_recipe(folder / "recipe.json")
        if recipe.model != model:
            raise ValueError(
                f"{folder}: recipe.json and unet/config.json are of different networks; use another checkpoint"
            )
        data = read_json(folder / "data.json")
        drops = recipe.training.condition_dropout > 0
        return Source(
            model, recipe.process, recipe.sampling, values, files, recipe.training.dtype, data, recipe.classes, drops
        )
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if not scheduler.is_file():
        raise ValueError(f"{folder}: no scheduler/scheduler_config.json, so its noise schedule is unknown")
    if model.in_channels != model.out_channels:
        raise ValueError(
            f"{folder}: out_channels = {model.out_channels}: only in_channels ({model.in_channels}) can be sampled"
        )
    process, sampling = read_scheduler(scheduler)
    return Source(model, process, sampling, values, files, "float32", {}, model.num_class_embeds)


def read_scheduler(path: Path) -> tuple[ProcessConfig, SamplingConfig]:
    """The process and the sampler of a diffusers scheduler's file; what the sampler does otherwise is logged.

    Raises:
        ValueError: a process that is not supported, by name.
    """
    values = read_json(path)
    process = process_from_diffusers(values, str(path))
    sampling, notes = sampling_from_diffusers(values, str(path))
    for note in notes:
        logger.warning("%s", note)
    return process, sampling
