"""Checkpoints: dict[str, ndarray] and a recipe <-> a folder that diffusers opens too.

    model_index.json                                  a DDPMPipeline, a DDIMPipeline, or a class of our own
    unet/{config.json, diffusion_pytorch_model.safetensors}     averaged parameters, diffusers' names and layout
    scheduler/scheduler_config.json
    recipe.json, data.json                            the whole recipe; the data's manifest
    chart.json, chart.safetensors                     of a network of matrices alone: its chart
    training_state.safetensors          parameters of the last step, Adam's moments
    training_state.json                 step and counters; SHA-256 sum and size of each file above that is checked

Networks that others saved are read by core.checkpoints.importing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoints.chart import CHART_FILES, checked_chart, write_chart
from core.checkpoints.diffusers_config import DIFFUSERS_VERSION, class_name_of, unet_to_diffusers
from core.checkpoints.pretrained import MOST_BYTES, is_pretrained, pretrained_folder
from core.checkpoints.scheduler_config import scheduler_to_diffusers
from core.checkpoints.sums import FORMAT_VERSION, check_progress, check_sums, sum_of
from core.config import ModelConfig, Recipe
from core.config.recipes import load_recipe, to_dict
from core.files import atomic_folder, write_json, write_tensors, write_text_atomic
from core.networks.specs import NETWORKS, check_weights
from core.reading import read_json, read_tensors, reading, shown
from core.spd.chart import Chart

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
SUMMED = (f"unet/{WEIGHTS_FILE}", "training_state.safetensors", "recipe.json", "data.json")
"""The files of a checkpoint whose sums training_state.json holds."""
# Any scheduler that follows a variance-preserving process serves DDPMPipeline.
_NOT_PRESERVING = ("FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds; `state` maps 'params/NAME', 'exp_avg/NAME', 'exp_avg_sq/NAME' to arrays."""

    recipe: Recipe
    ema: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    progress: dict[str, Any]
    data: dict[str, Any]
    chart: Chart | None = None
    """Of matrices alone."""


def write_pipeline(
    folder: Path, model: ModelConfig, weights: Mapping[str, np.ndarray], scheduler: Mapping[str, Any]
) -> None:
    """Write a network and its scheduler into an empty folder, as a diffusers pipeline where diffusers has one.

    Args:
        folder: an existing folder.
        model: the network.
        weights: every parameter in diffusers' names and layout.
        scheduler: the content of scheduler_config.json.
    Raises:
        OSError: disk full or not writable.
    """
    for name in ("unet", "scheduler"):
        (folder / name).mkdir()
    write_json(folder / "unet" / "config.json", unet_to_diffusers(model))
    write_tensors(folder / "unet" / WEIGHTS_FILE, weights)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    scheduler_class = scheduler.get("_class_name", "DDPMScheduler")
    pipeline, text = _pipeline(model, scheduler)
    class_name = class_name_of(model)
    index = {
        "_class_name": pipeline,
        "_diffusers_version": DIFFUSERS_VERSION,
        "scheduler": ["diffusers", scheduler_class],
        "unet": ["diffusers" if class_name == "UNet2DModel" else "diptych", class_name],
    }
    write_json(folder / "model_index.json", index)
    if text:
        write_text_atomic(folder / "README", text + "\n")


def _pipeline(model: ModelConfig, scheduler: Mapping[str, Any]) -> tuple[str, str]:
    """The pipeline's class, and what a reader must know of the folder where diffusers cannot sample it."""
    scheduler_class = scheduler.get("_class_name", "DDPMScheduler")
    network = NETWORKS[model.architecture]
    ours = "diffusers cannot open it; `python -m torch_impl sample` and `python -m tf_impl sample` do."
    if not network.in_diffusers:
        return network.class_name.removesuffix("UNet") + "Pipeline", f"The {model.architecture} network: {ours}"
    if model.vector_channels:
        return "DiptychConditionalPipeline", f"Conditioned on numbers: {ours}"
    if model.patch_size > 1:
        return "DiptychPipeline", f"The squares of {model.patch_size} pixels a side are channels in the network: {ours}"
    if scheduler.get("stretch"):
        return "DiptychPipeline", f"process.stretch: pixel values are stretched in the network: {ours}"
    opens = "UNet2DModel.from_pretrained opens `unet`."
    if model.conditional:
        kind = "Class-conditional" if model.num_class_embeds else "Conditioned on an image"
        return "DiptychConditionalPipeline", f"{kind}: diffusers' DDPMPipeline cannot sample it; {opens}"
    if scheduler.get("variance_type") == "learned_range":
        text = "of diffusers' pipelines only DDPMPipeline, with variance_type learned_range, can sample it."
        return "DDPMPipeline", f"Learned variance: {text}"
    if scheduler_class in _NOT_PRESERVING or scheduler.get("prediction_type") in ("flow", "edm"):
        return "DiptychPipeline", f"A process that diffusers' pipelines of a UNet2DModel cannot sample; {opens}"
    return "DDIMPipeline" if scheduler_class == "DDIMScheduler" else "DDPMPipeline", ""


def _write_chart(folder: Path, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Write the chart of a network of matrices; the names of its files."""
    if checkpoint.chart is None:
        return ()
    write_chart(folder, checkpoint.chart)
    return CHART_FILES


def save_checkpoint(target: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder atomically.

    Args:
        target: the folder's final name.
        checkpoint: its content; weights in diffusers' names and layout.
    Raises:
        OSError: disk full or not writable; nothing is left at `target`.
    """
    recipe = checkpoint.recipe
    with atomic_folder(target) as folder:
        scheduler = scheduler_to_diffusers(recipe.process, recipe.sampling)
        write_pipeline(folder, recipe.model, checkpoint.ema, scheduler)
        write_json(folder / "recipe.json", to_dict(recipe))
        write_json(folder / "data.json", checkpoint.data)
        write_tensors(folder / "training_state.safetensors", checkpoint.state)
        sums = {name: sum_of(folder / name) for name in (*SUMMED, *_write_chart(folder, checkpoint))}
        write_json(folder / "training_state.json", {"format": FORMAT_VERSION, "files": sums, **checkpoint.progress})


def save_pretrained(target: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint without training state and with its weights in float16, atomically.

    Args:
        target: the folder's final name; a folder of that name is replaced.
        checkpoint: its averaged weights are written.
    Raises:
        ValueError: the folder is larger than MOST_BYTES, or float16 cannot hold a weight.
        OSError: disk full or not writable.
    """
    recipe = checkpoint.recipe
    with np.errstate(over="ignore"):
        halves = {name: value.astype(np.float16) for name, value in checkpoint.ema.items()}
    check_weights(halves, recipe.model, f"{target}: weights in float16")
    with atomic_folder(target) as folder:
        write_pipeline(folder, recipe.model, halves, scheduler_to_diffusers(recipe.process, recipe.sampling))
        write_json(folder / "recipe.json", to_dict(recipe))
        write_json(folder / "data.json", checkpoint.data)
        names = [name for name in SUMMED if name != "training_state.safetensors"]
        sums = {name: sum_of(folder / name) for name in (*names, *_write_chart(folder, checkpoint))}
        write_json(folder / "training_state.json", {"format": FORMAT_VERSION, "files": sums, **checkpoint.progress})
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size > MOST_BYTES:
            raise ValueError(f"{target}: {size:,} bytes: must be at most {MOST_BYTES:,}; train a smaller network")


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder, training state included.

    Raises:
        ValueError: a file missing, damaged or changed, or not of the network that the recipe names.
    """
    progress = read_json(folder / "training_state.json")
    check_sums(folder, SUMMED)
    recipe = load_recipe(folder / "recipe.json")
    check_progress(folder, progress, recipe)
    ema = read_tensors(folder / "unet" / WEIGHTS_FILE)
    check_weights(ema, recipe.model, str(folder / "unet" / WEIGHTS_FILE))
    state_path = folder / "training_state.safetensors"
    state = read_tensors(state_path)
    profiles = (f"profile_{i}" for i in range(len(recipe.training.ema_profiles)))
    for part in ("params", "exp_avg", "exp_avg_sq", *profiles):
        tensors = {n.removeprefix(f"{part}/"): v for n, v in state.items() if n.startswith(f"{part}/")}
        check_weights(tensors, recipe.model, f"{state_path} ({part})")
    progress = {key: value for key, value in progress.items() if key not in ("format", "files")}
    chart = checked_chart(folder, recipe)
    return Checkpoint(recipe, ema, state, progress, read_json(folder / "data.json"), chart)


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a folder with the name of a checkpoint; one with a longer name is the user's own copy."""
    return path.is_dir() and re.fullmatch(r"step-\d+", path.name) is not None


def named_in(path: Path) -> str:
    """The name of a checkpoint that a run's file `latest` or `best` holds; empty where there is no such file."""
    if not path.is_file():
        return ""
    with reading(path, "the name of a checkpoint"), open(path, "rb") as file:
        return file.read(80).decode("ascii", "replace").strip()


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoint folders of a run: the one that its file `latest` names, then the others, newest first.

    Where `latest` is missing or damaged it is said, and the newest comes first.
    """
    named = run / "latest"
    folders = sorted((path for path in (run / "checkpoints").glob("step-*") if is_checkpoint(path)), reverse=True)
    name = named_in(named)
    latest = next((path for path in folders if path.name == name), None)
    if latest is None:
        if folders:
            why = f"names no checkpoint ({shown(name)})" if name else "is missing or empty"
            logger.warning("%s: %s; taking the newest checkpoint, %s", named, why, folders[0].name)
        return folders
    return [latest, *(path for path in folders if path != latest)]


def resolve_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder that a path names.

    Args:
        path: a run (its `latest`), the `best` of a run, a checkpoint itself, or pretrained:NAME.
    Raises:
        ValueError: none of these; the message says what is missing.
    """
    if is_pretrained(path):
        return pretrained_folder(path)
    path = Path(path)
    if path.name == "best" and path.is_file():
        name = named_in(path)
        if not is_checkpoint(path.parent / "checkpoints" / name):
            raise ValueError(f"{path}: names no checkpoint ({shown(name)}); name the run, or another checkpoint")
        path = path.parent / "checkpoints" / name
    else:
        run = path.parent if path.name == "latest" and path.is_file() else path
        path = next(iter(checkpoints_of(run)), run)
    if not path.is_dir():
        raise ValueError(f"{path}: no such run or checkpoint folder")
    if not (path / "unet" / "config.json").is_file() and not (path / "config.json").is_file():
        raise ValueError(
            f"{path}: neither a run with a checkpoint (no 'latest') nor a checkpoint (no unet/config.json)"
        )
    return path
