"""Checkpoints: dict[str, ndarray] and a recipe <-> a folder that diffusers opens too.

    model_index.json                                   a DDPMPipeline or DDIMPipeline (its own class name where diffusers has none)
    unet/config.json, diffusion_pytorch_model.safetensors   EMA weights, diffusers' names and layout
    scheduler/scheduler_config.json
    recipe.json, data.json                             the whole recipe; the data's manifest
    training_state.safetensors, training_state.json    raw weights, Adam's moments, step

Folders are written beside their final name, synced, then renamed: a name that exists holds a whole checkpoint.
Networks that others saved are core.model.importing's. This module imports no framework, and safetensors only inside
the functions that need it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.config import ModelConfig, Recipe
from core.model.diffusers_config import (
    BASELINE_CLASS,
    DIFFUSERS_VERSION,
    VECTOR_CLASS,
    unet_to_diffusers,
)
from core.model.scheduler_config import scheduler_to_diffusers
from core.model.unet_spec import param_specs
from core.recipes import load_recipe, to_dict

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
FORMAT_VERSION = 1
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


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes `target` when the block ends well, and vanishes otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            _sync(path)
        _sync(temporary)
        if target.exists():  # a step trained again after a resume
            shutil.rmtree(target)
        os.replace(temporary, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file in one step, keys in the given order."""
    write_text_atomic(path, json.dumps(values, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: missing, cut short, or not an object; the message names the file.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); the file may be cut short") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds no JSON object")
    return values


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file; arrays are made contiguous.

    Raises:
        OSError: disk full or not writable.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path, {"format": "pt"})
    except SafetensorError as error:
        raise OSError(errno.EIO, f"cannot be written ({error})", str(path)) from error


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file.

    Raises:
        ValueError: missing, cut short or damaged; the message names the file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); use another checkpoint") from error


def check_weights(weights: Mapping[str, np.ndarray], config: ModelConfig, where: str) -> None:
    """Demand exactly the network's parameters: equal names, equal shapes, finite values.

    Raises:
        ValueError: naming what is missing, left over, of another shape, or not finite.
    """
    check_tensors(weights, {name: spec.shape for name, spec in param_specs(config).items()}, where)


def check_tensors(weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """As check_weights, for parameters of known shapes.

    Raises:
        ValueError: naming what is missing, left over, of another shape, or not finite.
    """
    missing, extra = sorted(shapes.keys() - weights.keys()), sorted(weights.keys() - shapes.keys())
    if missing or extra:
        listed = [f"missing {', '.join(missing[:4])}" + (" ..." if len(missing) > 4 else "")] if missing else []
        listed += [f"left over {', '.join(extra[:4])}" + (" ..." if len(extra) > 4 else "")] if extra else []
        raise ValueError(
            f"{where}: not the weights of this network: {len(missing)} missing, {len(extra)} left over ({'; '.join(listed)})"
        )
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ValueError(f"{where}: {name} has shape {weights[name].shape}, the network needs {shape}")
        if not np.isfinite(weights[name]).all():
            raise ValueError(f"{where}: {name} holds values that are not finite")


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
    conditional, baseline = model.num_class_embeds is not None, model.architecture == "baseline"
    for name in ("unet", "scheduler"):
        (folder / name).mkdir()
    write_json(folder / "unet" / "config.json", unet_to_diffusers(model))
    write_tensors(folder / "unet" / WEIGHTS_FILE, weights)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    scheduler_class = scheduler.get("_class_name", "DDPMScheduler")
    pipeline = "DDIMPipeline" if scheduler_class == "DDIMScheduler" else "DDPMPipeline"
    text = ""
    if baseline:
        pipeline = "DiptychBaselinePipeline"
        text = "The baseline network: diffusers cannot open it; `python -m torch_impl sample` and `python -m tf_impl sample` do.\n"
    elif model.vector_channels:
        pipeline = "DiptychConditionalPipeline"
        text = "Conditioned on numbers: diffusers cannot open it; `python -m torch_impl sample` and `python -m tf_impl sample` do.\n"
    elif conditional or model.condition_channels:
        pipeline = "DiptychConditionalPipeline"
        kind = "Class-conditional" if conditional else "Conditioned on an image"
        text = f"{kind}: diffusers' DDPMPipeline cannot sample it; UNet2DModel.from_pretrained opens `unet`.\n"
    elif scheduler.get("variance_type") == "learned_range":
        text = "Learned variance: of diffusers' pipelines only DDPMPipeline, with variance_type learned_range, can sample it.\n"
    elif scheduler_class in _NOT_PRESERVING or scheduler.get("prediction_type") in ("flow", "edm"):
        pipeline = "DiptychPipeline"
        text = "A process that diffusers' pipelines of a UNet2DModel cannot sample; UNet2DModel.from_pretrained opens `unet`.\n"
    network = ["diptych", VECTOR_CLASS] if model.vector_channels else ["diffusers", "UNet2DModel"]
    if baseline:
        network = ["diptych", BASELINE_CLASS]
    index = {
        "_class_name": pipeline,
        "_diffusers_version": DIFFUSERS_VERSION,
        "scheduler": ["diffusers", scheduler_class],
        "unet": network,
    }
    write_json(folder / "model_index.json", index)
    if text:
        write_text_atomic(folder / "README", text)


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
        write_json(folder / "training_state.json", {"format": FORMAT_VERSION, **checkpoint.progress})


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder, training state included.

    Raises:
        ValueError: a file missing, cut short, or not of the network that the recipe names.
    """
    recipe = load_recipe(folder / "recipe.json")
    ema = read_tensors(folder / "unet" / WEIGHTS_FILE)
    check_weights(ema, recipe.model, str(folder / "unet" / WEIGHTS_FILE))
    state_path = folder / "training_state.safetensors"
    state = read_tensors(state_path)
    for part in ("params", "exp_avg", "exp_avg_sq"):
        tensors = {n.removeprefix(f"{part}/"): v for n, v in state.items() if n.startswith(f"{part}/")}
        check_weights(tensors, recipe.model, f"{state_path} ({part})")
    progress = read_json(folder / "training_state.json")
    return Checkpoint(recipe, ema, state, progress, read_json(folder / "data.json"))


def resolve_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder that a path names: a run (its `latest`), the `best` of a run, or a checkpoint itself.

    Raises:
        ValueError: neither; the message says what is missing.
    """
    path = Path(path)
    named = path if path.name in ("latest", "best") else path / "latest"
    if named.is_file():
        path = named.parent / "checkpoints" / named.read_text(encoding="utf-8").strip()
    if not path.is_dir():
        raise ValueError(f"{path}: no such run or checkpoint folder")
    if not (path / "unet" / "config.json").is_file() and not (path / "config.json").is_file():
        raise ValueError(
            f"{path}: neither a run with a checkpoint (no 'latest') nor a checkpoint (no unet/config.json)"
        )
    return path


def file_hash(*paths: Path) -> str:
    """SHA-256 of a file, or of several one after another, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()
