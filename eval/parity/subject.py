"""The network on which the frameworks are compared: weights, images, and a training in which everything acts."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.checkpoints.checkpoint import resolve_checkpoint
from core.checkpoints.trained import open_trained
from core.config import Recipe, TrainingConfig
from core.config.recipes import load_recipe
from core.data.lenses import simulate
from core.networks.specs import param_specs
from core.spd.chart import Chart, coordinates, fit_chart, size_of
from core.spd.laws import simulate_spd

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Subject:
    """The network on which the frameworks are compared."""

    name: str
    recipe: Recipe
    weights: Arrays
    """Every parameter by canonical name, float64."""

    @property
    def config(self) -> Any:
        """Its network."""
        return self.recipe.model

    def with_model(self, **changes: Any) -> Recipe:
        """Its recipe with another value of the network's options."""
        return dataclasses.replace(self.recipe, model=dataclasses.replace(self.recipe.model, **changes))

    def cast(self, dtype: str) -> Arrays:
        """Its weights at a precision, as the worker's arrays."""
        return {f"weights/{name}": value.astype(dtype) for name, value in self.weights.items()}


def open_subject(config: str, checkpoint: str | None) -> Subject:
    """A recipe with random weights, or a checkpoint with its own (the averaged ones).

    Args:
        config: a recipe's file; not read where a checkpoint is given.
        checkpoint: whatever `sample` draws from, or None.
    Raises:
        ValueError: a file that cannot be read or is not supported.
    """
    if checkpoint is None:
        recipe = load_recipe(config)
        return Subject(config, recipe, random_weights(recipe))
    folder = resolve_checkpoint(checkpoint)
    source = open_trained(folder, "ema")
    if (folder / "recipe.json").is_file():
        recipe = load_recipe(folder / "recipe.json")
    else:
        recipe = Recipe(source.model, source.process, sampling=source.sampling)
    return Subject(checkpoint, recipe, {name: value.astype(np.float64) for name, value in source.weights.items()})


def random_weights(recipe: Recipe) -> Arrays:
    """Weights without zeros or symmetry, of a size that keeps activations near 1; float64."""
    rng = np.random.default_rng(7)
    weights = {}
    for name, spec in param_specs(recipe.model).items():
        scale = 0.1 if len(spec.shape) < 2 else 1 / np.sqrt(np.prod(spec.shape[1:]))
        if name.startswith("outc."):  # the baseline does not normalise before its last layer: images would be white
            scale *= 0.1
        weights[name] = (spec.init == "ones") + scale * rng.standard_normal(spec.shape)
    return weights


def images_for(recipe: Recipe, count: int) -> Arrays:
    """Simulated lenses in the recipe's shape (one lens a channel), with what its conditions need; noise beside them."""
    if recipe.data.space == "spd":
        return _matrices_for(recipe, count)
    height, width, channels = recipe.image_shape
    drawn, parameters = _lenses(count * channels, (height, width))
    images = np.asarray(drawn, np.float32).reshape(count, channels, height, width).transpose(0, 2, 3, 1)
    arrays: Arrays = {"images": np.ascontiguousarray(images)}
    if recipe.model.num_class_embeds:
        arrays["labels"] = np.arange(count) % (recipe.classes or 1)
    if recipe.data.beside and recipe.input_shape is not None:
        arrays["beside"] = np.random.default_rng(4).random((count, *recipe.input_shape), np.float32)
    return arrays | {f"parameters/{name}": parameters[name][::channels] for name in recipe.data.condition}


def _matrices_for(recipe: Recipe, count: int) -> Arrays:
    """Coordinates of simulated matrices, with labels and covariates, as images_for()."""
    drawn = simulate_spd("regression", count, 3, size_of(recipe.model.in_channels))
    arrays: Arrays = {"images": coordinates(drawn.values).astype(np.float32)[:, None, None, :]}
    if recipe.model.num_class_embeds:
        arrays["labels"] = np.arange(count) % (recipe.classes or 1)
    return arrays | {f"parameters/{name}": drawn.parameters[name] for name in recipe.data.condition}


def chart_for(recipe: Recipe) -> Chart | None:
    """A chart for a recipe of matrices, as a checkpoint needs it; None for images."""
    if recipe.data.space != "spd":
        return None
    return fit_chart(_matrices_for(recipe, 12)["images"][:, 0, 0].astype(np.float64), "scale")


@functools.lru_cache(4)
def _lenses(count: int, size: tuple[int, int]) -> tuple[np.ndarray, Arrays]:
    """Simulated lenses (N, H, W, 1) and their parameters, which one climb asks for some thirty times."""
    drawn, _, parameters = simulate("lensing", count, size, seed=3)
    return drawn, parameters


def stress(recipe: Recipe, dtype: Any, **changes: Any) -> Recipe:
    """The recipe with a training in which everything acts: clip, warm-up, decay, weight decay, accumulation, average.

    Dropout is off: each framework draws its own masks. How levels are drawn, and which profiles are kept, is the
    recipe's. The optimizer is muon where the recipe has it, else adamw.
    """
    ways = {
        key: getattr(recipe.training, key)
        for key in ("timestep_sampling", "p_mean", "p_std", "stratified", "ema_profiles")
    }
    training = TrainingConfig(
        steps=20,
        batch_size=4,
        accumulate=2,
        optimizer="muon" if recipe.training.optimizer == "muon" else "adamw",
        weight_decay=0.1,
        learning_rate=2e-3,
        clip_norm=0.5,
        warmup_steps=5,
        decay="cosine",
        final_fraction=0.1,
        ema_decay=0.9,
        seed=5,
        dtype=dtype,
        **ways,
    )
    model = dataclasses.replace(recipe.model, dropout=0.0)
    return dataclasses.replace(recipe, model=model, training=dataclasses.replace(training, **changes))
