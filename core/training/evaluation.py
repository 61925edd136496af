"""The distance between drawn and held-out images while a network trains. Imports no framework: a twin supplies the extractor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.config import Recipe
from core.data.dataset import Dataset
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.inference.conditioning import own_condition, weak_condition
from core.inference.sampling import Sampler, draw
from core.metrics.frechet import frechet_distance_from_features

Extract = Callable[[np.ndarray], np.ndarray]
"""Images (N, H, W, C) in [0, 1] -> features (N, d)."""


class Evaluator:
    """Squared Fréchet distance between the features of drawn and of held-out images, N of each.

    Args:
        recipe: sampler, evaluation and process.
        dataset: whose held-out images are the real ones.
        extract: a twin's extractor.
    Raises:
        ValueError: fewer held-out images than evaluation.n.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, extract: Extract) -> None:
        self.recipe, self.extract, self.dataset = recipe, extract, dataset
        n, held_out = recipe.evaluation.n, dataset.held_out
        if n > len(held_out):
            raise ValueError(
                f"evaluation.n = {n}: must be at most {len(held_out)}, the number of held-out images; "
                "lower it, or raise data.held_out"
            )
        self.table = make_table(make_process(recipe.process), recipe.sampling)
        self.real = extract(np.asarray(dataset.images[held_out[:n]]))

    def due(self, step: int) -> bool:
        """Whether the network is evaluated after so many optimiser steps."""
        return step % self.recipe.evaluation.every == 0 or step == self.recipe.training.steps

    def __call__(self, sampler: Sampler) -> float:
        """The distance of images drawn now; the same noise at every call, so that only the network differs."""
        recipe, samples = self.recipe, range(self.recipe.evaluation.n)
        seed, dtype = recipe.evaluation.seed, recipe.training.dtype
        condition = own_condition(recipe, self.dataset, samples, seed)
        images = draw(
            sampler, self.table, recipe.image_shape, seed, samples, recipe.sampling.batch_size, dtype, condition,
            weak=weak_condition(recipe, condition),
        )  # fmt: skip
        return frechet_distance_from_features(self.extract(images.astype(np.float32)), self.real)
