"""Rung 9: the same seed gives the same images, whatever the framework, the batch size and the range of samples.

Imports NumPy, core and eval's own modules: no framework, no twin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from core.config import ARCHITECTURES, Recipe, SamplingConfig
from core.config.recipes import to_dict
from core.inference.conditioning import own_condition
from core.random import gaussian
from core.worker.tasks import as_dataset
from eval.parity.ladder import Board, Twins, under
from eval.parity.subject import Arrays, Subject, images_for
from eval.parity.tolerances import EXACT, GREY_LEVELS

SEED = 11
BATCHES = (1, 7, 64)
"""Batch sizes in which a part of the images is drawn once more."""


def draw(twins: Twins, recipe: Recipe, weights: Arrays, first: int, n: int, board: Board) -> list[np.ndarray]:
    """(PyTorch's, TensorFlow's) images `first` to `first + n` of the seed, (n, H, W, C), from bit-equal noise."""
    condition = own_condition(recipe, as_dataset(images_for(recipe, 12)), range(first, first + n), SEED)
    arrays = dict(weights) | under("condition", condition)
    results = [
        result for result, _ in twins.both("sample", arrays, recipe=to_dict(recipe), seed=SEED, first=first, n=n)
    ]
    expected = gaussian(SEED, "x_T", range(first, first + n), 0, recipe.image_shape, recipe.training.dtype)
    for framework, result in zip(twins, results, strict=True):
        board.close(f"x_T of images {first} to {first + n - 1}, {framework}", result["x_T"], expected, EXACT)
    return [result["images"] for result in results]


def grey_levels(board: Board, quantity: str, found: np.ndarray, expected: np.ndarray) -> None:
    """Note the largest difference in rounded grey levels of 255; there must be pictures to compare."""
    exact, rounded = (np.abs(f(found * 255.0) - f(expected * 255.0)) for f in (np.asarray, np.rint))
    index = tuple(int(i) for i in np.unravel_index(np.argmax(exact), exact.shape))
    where = f"{exact[index]:.3g} before rounding, image {index[0]}, row {index[1]}, column {index[2]}"
    worst = float(rounded.max()) if np.isfinite(found).all() and expected.std() > 0.01 else np.inf
    board.record(quantity, str(found.dtype), worst, GREY_LEVELS, where, "grey levels")


def images(count: int, long_count: int) -> Callable[[Twins, Subject, Board], None]:
    """The rung that draws `count` images with each sampler, and `long_count` with the whole of DDPM."""

    def rung(twins: Twins, subject: Subject, board: Board) -> None:
        """Images from keyed noise: frameworks, batch sizes and ranges of samples."""
        weights, T = subject.cast("float32"), subject.recipe.process.timesteps
        # Dropout in the recipe, so that a sampler that leaves it acting is seen, where the network has any.
        dropout = subject.config.dropout or 0.1 * ARCHITECTURES[subject.config.architecture].takes("dropout")
        dropping = subject.with_model(dropout=dropout)
        for name, sampling in _samplers(subject.recipe).items():
            recipe = dataclasses.replace(dropping, sampling=dataclasses.replace(sampling, batch_size=count))
            wholes = draw(twins, recipe, weights, 0, count, board)
            grey_levels(board, f"{name}, {sampling.steps} steps, {count} images", wholes[1], wholes[0])
            if not board.pictures:
                board.pictures |= {"PyTorch": wholes[0], "TensorFlow": wholes[1]}
            first, n = _range(count)
            for batch in dict.fromkeys(min(batch, n) for batch in BATCHES):  # 7 and 64 of two images are both two
                if batch == count:
                    continue  # the whole draw itself
                recipe = dataclasses.replace(recipe, sampling=dataclasses.replace(sampling, batch_size=batch))
                parts = draw(twins, recipe, weights, first, n, board)
                for framework, found, whole in zip(twins, parts, wholes, strict=True):
                    what = f"{name}, {framework}: images {first} to {first + n - 1} in batches of {batch}, against all"
                    grey_levels(board, what, found, whole[first : first + n])
        if long_count:
            sampling = SamplingConfig("ddpm", T, clip=subject.recipe.data.space == "image", batch_size=long_count)
            recipe = dataclasses.replace(dropping, sampling=sampling)
            torch, tensorflow = draw(twins, recipe, weights, 0, long_count, board)
            grey_levels(board, f"ddpm, {T} steps, {long_count} images", tensorflow, torch)

    return rung


def _samplers(recipe: Recipe) -> dict[str, SamplingConfig]:
    """One of each kind, and a guided one where training dropped the condition; the report shows DDIM's."""
    T, clip = recipe.process.timesteps, recipe.data.space == "image"
    most = min(20, T)
    guided = SamplingConfig("ddim", most, clip=clip, guidance=2.0, guidance_min=0.1, guidance_max=50.0)
    return {
        "ddim": SamplingConfig("ddim", min(50, T), clip=clip),
        "ddim with noise": SamplingConfig("ddim", most, eta=1.0, clip=clip),
        "ddpm": SamplingConfig("ddpm", most, clip=clip),
        "dpmsolver++": SamplingConfig("dpmsolver++", most, clip=clip),
        **({"ddim, guided": guided} if recipe.training.condition_dropout > 0 else {}),
    }


def _range(count: int) -> tuple[int, int]:
    """First and number of the images that are drawn again: 40 to 49 of 64; at least two, for two batches."""
    return min(5 * count // 8, count - 2), max(2, 5 * count // 32)
