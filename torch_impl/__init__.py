"""The diffusion model in PyTorch. May import core and torch; never the other twin. Twin: tf_impl.

PyTorch is imported by the functions that need it, so that `import torch_impl` and --help take no time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.twin import Twin

if TYPE_CHECKING:
    from core.config import Recipe
    from core.inference.generator import Generator
    from core.training.loop import TrainingRun

__all__ = ["load", "load_recipe", "load_unet", "train", "training"]

TWIN = Twin(__name__)
EXPORT_FORMATS = {
    "torch-export": (".pt2", "for torch.export.load; stands alone"),
    "onnx": (".onnx", "for onnxruntime and others; stands alone; needs: pip install onnx onnxscript onnxruntime"),
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
    """Open a network alone, as an nn.Module; see torch_impl.weights.load_unet."""
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
    """Train in a run's folder, with checkpoints, as `python -m torch_impl train` does.

    Args:
        recipe: what to train.
        run: folder of the run; a new one, unless `resume`.
        resume: go on from the run's last checkpoint.
    Returns:
        Whether the end was reached; False after Ctrl-C, with everything saved.
    """
    from core.training.run import train_in

    return train_in(TWIN, recipe, Path(run), resume) == 0
