"""The diffusion model in Keras 3 on TensorFlow. May import core, keras and tensorflow; never the other twin. Twin: torch_impl.

TensorFlow is imported by the functions that need it, so that `import tf_impl` and --help take no time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.twin import Twin

if TYPE_CHECKING:
    from core.config import Recipe
    from core.inference.generator import Generator
    from core.training.loop import TrainingRun

# All are read when the frameworks are first imported. TensorFlow turns oneDNN on by itself only where the CPU has
# AVX-512; with AVX2 alone its convolutions are half as fast without it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__all__ = ["load", "load_recipe", "load_unet", "train", "training"]

TWIN = Twin(__name__)
EXPORT_FORMATS = {
    "saved-model": ("", "for tf.saved_model.load and TensorFlow Serving; stands alone"),
    "keras": (
        ".keras",
        "for keras.saving.load_model beside `import tf_impl.weights`, so in this checkout; any image size",
    ),
}


def load(path: str | Path, weights: Literal["ema", "raw"] = "ema") -> Generator:
    """Open a trained network to draw from.

    Args:
        path: a run, a checkpoint, or a diffusers pipeline folder.
        weights: ema, the averaged weights; or raw, those of the last step.
    Returns:
        A generator of images; see core.inference.generator.Generator.
    Raises:
        ValueError: no such folder, or a network that is not supported.
    """
    from core.inference.generator import open_generator

    return open_generator(TWIN, path, weights)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a .toml file or a run's recipe.json."""
    from core.config.recipes import load_recipe

    return load_recipe(path)


def load_unet(folder: str | Path, dtype: str = "float32") -> Any:
    """Open a network alone, as a Keras layer; see tf_impl.weights.load_unet."""
    return TWIN.module("weights").load_unet(folder, dtype)


def training(recipe: Recipe) -> TrainingRun:
    """A training that the caller owns: `for step, metrics in training(recipe): ...`; nothing is written.

    Args:
        recipe: what to train.
    Returns:
        The run; iterating over it trains, and its generator() draws from the averaged weights as they are.
    """
    from core.training.loop import start_training

    return start_training(TWIN, recipe)


def train(recipe: Recipe, run: str | Path, resume: bool = False) -> bool:
    """Train in a run's folder, with checkpoints, as `python -m tf_impl train` does.

    Args:
        recipe: what to train.
        run: folder of the run; a new one, unless `resume`.
        resume: go on from the run's last checkpoint.
    Returns:
        Whether the end was reached; False after Ctrl-C, with everything saved.
    """
    from core.training.run import train_in

    return train_in(TWIN, recipe, Path(run), resume) == 0
