"""What an optimiser step is fed: images, noise levels, noise and coefficients, a pure function of (recipe, step),
and with importance sampling of past losses.

Since everything is keyed by the seed and the step, both frameworks see the same batches and a resumed run sees what
it would have seen. This module imports no framework.
"""

from __future__ import annotations

import numpy as np

from core.config import Recipe
from core.data.dataset import Dataset, batch_indices, symmetry, symmetry_codes
from core.diffusion.learned_variance import bound_columns
from core.diffusion.noise import gaussian
from core.diffusion.process import Process, coefficients
from core.images import from_unit
from core.training.levels import LevelSampler

Batch = dict[str, np.ndarray]


def make_batch(
    recipe: Recipe, process: Process, dataset: Dataset, step: int, levels: LevelSampler | None = None
) -> Batch:
    """The global batch of one optimiser step.

    Args:
        recipe: data, training and model parts are used.
        process: the tables of recipe.process.
        dataset: images in [0, 1] and labels.
        step: 0-based optimiser step.
        levels: the run's, which knows past losses; a new one where None.
    Returns:
        `x_0` and `eps` (B, H, W, C), x_0 in [-1, 1]; `t` (B,) int64 levels; `time`, `signal`, `noise`, `target_x0`, `target_eps`,
        `weight` (B,), where levels are sampled by importance with 1 / (T p) in it, which is `importance` (B,);
        where the variance is learned those of core.diffusion.learned_variance; for a class-conditional network `labels` (B,) int64. Floats have training.dtype.
    """
    config, seed = recipe.training, recipe.training.seed
    samples = range(config.batch_size)
    chosen = dataset.train[batch_indices(seed, step, config.batch_size, len(dataset.train))]
    images = np.stack([dataset.images[i] for i in chosen])
    if recipe.data.augment:
        square = images.shape[1] == images.shape[2]
        images = symmetry(images, symmetry_codes(seed, step, config.batch_size, square))
    levels = levels or LevelSampler(config, process)
    t, importance = levels.draw(step)
    batch = {
        "x_0": from_unit(images.astype(config.dtype)),
        "eps": gaussian(seed, "training_eps", samples, step, recipe.image_shape, config.dtype),
        "t": t,
        **coefficients(process, t, config.dtype),
    }
    if recipe.process.variance == "learned":
        batch |= {name: column[t].astype(config.dtype) for name, column in bound_columns(process).items()}
    if levels.importance:
        batch["importance"] = importance.astype(config.dtype)
        for name in ("weight", "bound_weight"):
            if name in batch:
                batch[name] = batch[name] * batch["importance"]
    if recipe.model.num_class_embeds is not None:
        if dataset.labels is None:  # check_labels has refused this before the first step
            raise ValueError("data.source: no class labels")
        batch["labels"] = dataset.labels[chosen]
    return batch


def check_labels(recipe: Recipe, dataset: Dataset) -> None:
    """Refuse a class-conditional network over data without labels, or with more classes than it has.

    Raises:
        ValueError: naming both numbers.
    """
    classes = recipe.model.num_class_embeds
    if classes is None:
        return
    if dataset.labels is None:
        raise ValueError(
            f"model.num_class_embeds = {classes}, but {recipe.data.source} has no class labels; "
            "sort the images into one folder a class, or leave num_class_embeds out"
        )
    if int(dataset.labels.max()) >= classes:
        raise ValueError(
            f"model.num_class_embeds = {classes}, but {recipe.data.source} has {int(dataset.labels.max()) + 1} classes"
        )
