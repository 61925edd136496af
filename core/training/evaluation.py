"""The Fréchet distance between drawn and held-out images, measured during training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.config import Recipe
from core.data.dataset import Dataset
from core.extractors.features import EXTRACTORS, default_weights, extract, first_batch_size
from core.twin import Twin

Extract = Callable[[np.ndarray], np.ndarray]
"""Images (N, H, W, C) in [0, 1] -> features (N, d)."""


class Evaluation:
    """Squared Fréchet distance between the features of drawn and of held-out images, evaluation.n of each.

    Args:
        recipe: its evaluation table and training.steps are read.
        dataset: the data set, whose held-out images are the real ones.
        extract: maps images to features.
    Raises:
        ValueError: fewer held-out images than evaluation.n.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, extract: Extract) -> None:
        self.config, self.steps, self.extract = recipe.evaluation, recipe.training.steps, extract
        n, held_out = recipe.evaluation.n, dataset.held_out
        if n > len(held_out):
            raise ValueError(
                f"evaluation.n = {n}: must be at most {len(held_out)}, the number of held-out images; "
                "lower it, or raise data.held_out"
            )
        self.real = extract(np.asarray(dataset.images[held_out[:n]]))

    def due(self, step: int) -> bool:
        """Whether the network is evaluated after this many optimiser steps."""
        return step % self.config.every == 0 or step == self.steps

    def __call__(self, images: np.ndarray) -> float:
        """The distance of drawn images (n, H, W, C) in [0, 1] to the held-out ones."""
        from core.metrics.frechet import frechet_distance_from_features  # late: it imports SciPy

        return frechet_distance_from_features(self.extract(images.astype(np.float32)), self.real)


def make_extract(twin: Twin, recipe: Recipe) -> Extract:
    """The function from images to the features that the recipe's evaluation compares."""
    name = recipe.evaluation.extractor
    extractor = twin.make_extractor(name, default_weights(name)[1], "clean", "float32")
    EXTRACTORS[name].check_channels(recipe.image_shape[2])
    tap, size = EXTRACTORS[name].default_tap, first_batch_size(name, twin.environment()["device"], "float32")

    def features(images: np.ndarray) -> np.ndarray:
        return extract(extractor, lambda start, stop: images[start:stop], len(images), size, (tap,))[tap]

    return features
