"""What an optimiser step is fed: images, noise levels, noise and coefficients, a pure function of (recipe, step),
and with importance sampling of past losses.

Since everything is keyed by the seed and the step, both frameworks see the same batches and a resumed run sees what
it would have seen. This module imports no framework.
"""

from __future__ import annotations

import numpy as np

from core.config import Recipe
from core.data.dataset import Dataset, batch_indices, symmetry, symmetry_codes
from core.diffusion.bound import bound_columns
from core.diffusion.process import Process, coefficients
from core.images import from_unit
from core.inference.conditioning import training_condition
from core.random import gaussian
from core.training.levels import LevelSampler

Batch = dict[str, np.ndarray]


def make_batch(
    recipe: Recipe, process: Process, dataset: Dataset, step: int, levels: LevelSampler | None = None
) -> Batch:
    """The global batch of one optimiser step.

    Args:
        recipe: data, training and model parts are used.
        process: the tables of recipe.process.
        dataset: images in [0, 1], labels and parameters.
        step: 0-based optimiser step.
        levels: the run's, which knows past losses; a new one where None.
    Returns:
        `x_0` and `eps` (B, H, W, C), x_0 in [-1, 1]; `t` (B,) int64 levels; `time`, `signal`, `noise`, `target_x0`, `target_eps`,
        `weight` (B,), where levels are sampled by importance with 1 / (T p) in it, which is `importance` (B,); where the
        variance is learned those of core.diffusion.bound; and the condition by name. Floats have training.dtype.
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
    return {**batch, **training_condition(recipe, dataset, chosen, images, step)}
