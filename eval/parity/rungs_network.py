"""Rungs 5 and 6, first half: layers, the whole network, the loss and its gradients.

Imports NumPy, core and eval's own modules: no framework, no twin.
"""

from __future__ import annotations

import numpy as np

from core.config import ARCHITECTURES, Recipe
from core.config.recipes import to_dict
from core.networks.specs import NETWORKS
from core.training.training import Training
from core.worker.tasks import as_dataset
from eval.parity.ladder import Board, Twins, part, under
from eval.parity.subject import Arrays, Subject, images_for, stress
from eval.parity.tolerances import (
    GRADIENT_FLOAT32,
    GRADIENT_FLOAT64,
    GRADIENT_FLOOR,
    LAYER_FLOAT32,
    LAYER_FLOAT64,
    NETWORK_FLOAT32,
    NETWORK_FLOAT64,
    Tolerance,
)

DTYPES: dict[str, tuple[Tolerance, Tolerance]] = {
    "float64": (LAYER_FLOAT64, NETWORK_FLOAT64),
    "float32": (LAYER_FLOAT32, NETWORK_FLOAT32),
}


def network_inputs(recipe: Recipe, size: tuple[int, int], dtype: str, batch: int = 2) -> Arrays:
    """Noise, timesteps from both ends, and the conditions of the network; the first image has no parameters."""
    rng = np.random.default_rng(1)
    model = recipe.model
    x = rng.standard_normal((batch, *size, model.image_channels))
    arrays = {"x": x.astype(dtype), "t": np.linspace(3, recipe.process.timesteps - 3, batch).astype(int)}
    if recipe.model.num_class_embeds:
        arrays["labels"] = np.arange(batch) * (recipe.model.num_class_embeds - 1) // max(batch - 1, 1)
    if model.vector_channels:
        arrays["vector"] = rng.standard_normal((batch, model.vector_channels)).astype(dtype)
        arrays["keep"] = (np.arange(batch) > 0).astype(dtype)
    if model.condition_channels:
        arrays["image"] = rng.standard_normal((batch, *size, model.condition_channels)).astype(dtype)
    return arrays


def layers(twins: Twins, subject: Subject, board: Board) -> None:
    """Every layer alone, TensorFlow's fed with the input that PyTorch's had."""
    for dtype, (tolerance, _) in DTYPES.items():
        arrays = {**subject.cast(dtype), **network_inputs(subject.recipe, subject.config.sample_size, dtype)}
        options = {"model": to_dict(subject.config), "dtype": dtype}
        traced, _ = twins["torch"].call("trace_layers", arrays, **options)
        replayed, _ = twins["tensorflow"].call("replay_layers", {**subject.cast(dtype), **traced}, **options)
        expected, found = part("out", traced), part("out", replayed)
        for name, value in expected.items():  # in the order of evaluation: the first red one is the one to look at
            if name not in found:
                board.record(f"layer {name}", dtype, np.inf, tolerance, "TensorFlow has no such layer")
            else:
                board.close(f"layer {name}", found[name], value, tolerance)


def network(twins: Twins, subject: Subject, board: Board) -> None:
    """The whole network's output, at its own size and at one that is not square."""
    step = subject.config.downscale
    odd = (2 * step, 3 * step) if ARCHITECTURES[subject.config.architecture].any_size else subject.config.sample_size
    for dtype, (_, tolerance) in DTYPES.items():
        for size in dict.fromkeys((subject.config.sample_size, odd)):
            arrays = {**subject.cast(dtype), **network_inputs(subject.recipe, size, dtype)}
            options = {"model": to_dict(subject.config), "dtype": dtype}
            (torch, _), (tensorflow, _) = twins.both("forward", arrays, **options)
            board.close(f"output at {size[0]}x{size[1]}", tensorflow["output"], torch["output"], tolerance)


def first_batch(recipe: Recipe) -> Arrays:
    """The recipe's first batch of simulated lenses; an image that is a condition is noise."""
    batch = dict(Training(recipe, as_dataset(images_for(recipe, 12))).batch(0))
    if recipe.model.condition_channels:
        shape = (*batch["x_0"].shape[:3], recipe.model.condition_channels)
        batch["image"] = np.random.default_rng(2).standard_normal(shape).astype(recipe.training.dtype)
    return batch


def gradients(twins: Twins, subject: Subject, board: Board) -> None:
    """The loss, and its gradient in every parameter."""
    exact: Arrays = {}
    for dtype, tolerance in (("float64", GRADIENT_FLOAT64), ("float32", GRADIENT_FLOAT32)):
        recipe = stress(subject.recipe, dtype)
        batch = first_batch(recipe)
        if dtype == "float32" and NETWORKS[subject.config.architecture].max_pooling:
            _image_by_image(twins, subject, board, batch, exact)
            continue
        torch, tensorflow = _loss_and_gradients(twins, subject, recipe, batch)
        exact = part("grad", torch)
        board.close("loss", tensorflow["loss"], torch["loss"], tolerance)
        board.all_close("gradient", part("grad", tensorflow), part("grad", torch), tolerance, GRADIENT_FLOOR, exact)


def _loss_and_gradients(twins: Twins, subject: Subject, recipe: Recipe, batch: Arrays) -> list[Arrays]:
    arrays = subject.cast(recipe.training.dtype) | under("batch", batch)
    return [found for found, _ in twins.both("gradients", arrays, recipe=to_dict(recipe))]


def _image_by_image(twins: Twins, subject: Subject, board: Board, batch: Arrays, exact: Arrays) -> None:
    """Float32 gradients of a network that pools by the largest: one image at a time, and the nearest one counts.

    Where a window's two largest values are nearer than float32's rounding, each framework may send the gradient to
    another pixel; both are right, and no tolerance holds. Some images have such a window; a fault is in all.
    """
    recipe, seen = stress(subject.recipe, "float32", batch_size=1, accumulate=1), []
    for i in range(len(batch["t"])):
        one = {name: value[i : i + 1] for name, value in batch.items()}
        torch, tensorflow = _loss_and_gradients(twins, subject, recipe, one)
        trial = Board(board.rung)
        trial.close("loss", tensorflow["loss"], torch["loss"], GRADIENT_FLOAT32)
        found, expected = part("grad", tensorflow), part("grad", torch)
        trial.all_close("gradient", found, expected, GRADIENT_FLOAT32, GRADIENT_FLOOR, exact)
        seen.append(trial.measurements)
    nearest = min(seen, key=lambda pair: max(m.measured for m in pair))
    each = ", ".join(f"{max(m.measured for m in pair):.1e}" for pair in seen)
    for m in nearest:
        quantity = f"{m.quantity}, nearest of {len(seen)} images"
        board.record(quantity, m.dtype, m.measured, GRADIENT_FLOAT32, f"{m.where}; image by image {each}")
