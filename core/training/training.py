"""A training: a recipe on its data, which makes every batch and takes every optimiser step.

A batch is a function of (recipe, step), and with importance sampling of past losses. So both frameworks train on the
same batches, and a resumed run trains on those of an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from typing import Any, Protocol

import numpy as np

from core.ahead import Ahead
from core.config import Recipe
from core.data.dataset import Dataset
from core.data.order import batch_indices, symmetry, symmetry_codes
from core.diffusion.bound import bound_columns
from core.diffusion.process import coefficients, make_process
from core.inference.conditioning import data_record, training_condition
from core.inference.sampling import Network
from core.inference.space import SPACES
from core.networks.specs import count_parameters
from core.random import gaussian
from core.reading import check_memory
from core.training.levels import LevelSampler
from core.training.optim import scalars
from core.training.ranks import Ranks

AHEAD = 2
"""Number of batches that are made ahead."""
Batch = dict[str, np.ndarray]
State = tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, int]]
"""EMA weights by name; training state by name; counters by name."""


class Trainer(Protocol):
    """A twin's part of a training: the network, its averages and its optimiser."""

    asynchronous: bool
    """Whether steps run on a GPU beside the host. Batches are then made ahead in a thread, where they do not depend on
    past losses."""

    def put(self, batch: Batch) -> Any:
        """A batch of Training.batch() on the device. It may be called in another thread than step()."""
        ...

    def step(self, placed: Any, scalars: dict[str, float]) -> dict[str, Any]:
        """One optimiser step. A step whose loss or gradient norm is not finite changes only the two counters.

        No result is waited for, except with importance sampling, which needs the losses.

        Args:
            placed: a batch, as put() returns it.
            scalars: as core.training.optim.scalars() returns them.
        Returns:
            `loss`, `grad_norm` and the counters `skipped` and `skipped_in_a_row`, scalars on the device. With
            importance sampling also `losses`, weighted, of the whole global batch.
        """
        ...

    def state(self) -> State:
        """Everything that a checkpoint keeps.

        Returns:
            EMA weights by canonical name; the training state, with the weights as `params/NAME`, Adam's moments as
            `exp_avg/NAME` and `exp_avg_sq/NAME`, and the average of profile I as `profile_I/NAME`; and the counters.
            Of a parameter that Muon trains, `exp_avg/NAME` is the momentum and `exp_avg_sq/NAME` is zero.
        """
        ...

    def load(self, ema: dict[str, np.ndarray], state: dict[str, np.ndarray], counters: dict[str, int]) -> None:
        """Restore a state()."""
        ...

    def ema_network(self) -> Network:
        """The network with the EMA weights as they are now."""
        ...


def check_memory_of(recipe: Recipe) -> None:
    """Refuse a recipe whose network or batch does not fit into main memory.

    A checkpoint holds the weights, their average and both of Adam's moments. A batch holds its images and their noise.

    Raises:
        ValueError: the message names the key.
    """
    size, config = np.dtype(recipe.training.dtype).itemsize, recipe.training
    parameters, image = count_parameters(recipe.model), math.prod(recipe.image_shape)
    check_memory(f"model: {parameters:,} parameters", 4 * size * parameters)
    check_memory(f"training.batch_size = {config.batch_size}", 2 * size * config.batch_size * image)
    for name, count in (("training.sample_count", config.sample_count), ("evaluation.n", recipe.evaluation.n)):
        check_memory(f"{name} = {count}", 2 * size * count * image)


class Training:
    """A recipe on its data.

    Args:
        recipe: the recipe to train.
        dataset: images in [0, 1], labels and parameters.
        ranks: the processes that train together; None trains alone.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, ranks: Ranks | None = None) -> None:
        self.recipe, self.dataset, self.ranks = recipe, dataset, ranks or Ranks()
        self.process = make_process(recipe.process)
        self.levels = LevelSampler(recipe.training, self.process)
        self._ahead: tuple[Trainer, Ahead[Any]] | None = None

    def begin(self, trainer: Trainer) -> None:
        """Prepare a new trainer. Its weights are drawn from the seed already, so that nothing is left to do."""

    def record(self) -> dict[str, Any]:
        """What a checkpoint records of the data."""
        return data_record(self.recipe, self.dataset)

    def advance(self, trainer: Trainer, step: int) -> dict[str, Any]:
        """Take one optimiser step (0-based).

        Returns:
            The trainer's metrics, `lr`, and `waited`, the seconds before the batch was on the device.
        """
        values, started = scalars(self.recipe.training, step, self.ranks.rank), time.perf_counter()
        ahead = trainer.asynchronous and not self.levels.importance
        batch = {} if ahead else self.batch(step)
        placed = self._batches(trainer).take(step) if ahead else trainer.put(batch)
        waited = time.perf_counter() - started
        metrics = trainer.step(placed, values)
        if self.levels.importance:  # of the global batch, as the losses are
            t, weights = self.levels.draw(step)
            self.levels.note({"t": t, "importance": weights.astype(self.recipe.training.dtype)}, metrics)
        return {**metrics, "lr": values["lr"], "waited": waited}

    def close(self) -> None:
        """End the thread that makes batches ahead."""
        if self._ahead is not None:
            self._ahead[1].close()
            self._ahead = None

    def _batches(self, trainer: Trainer) -> Ahead[Any]:
        """The batches on the trainer's device, made ahead."""
        if self._ahead is None or self._ahead[0] is not trainer:
            made = Ahead(lambda step: trainer.put(self.batch(step)), range(self.recipe.training.steps), AHEAD)
            self._ahead = trainer, made
        return self._ahead[1]

    def batch(self, step: int) -> Batch:
        """This rank's part of the global batch of one optimiser step.

        Args:
            step: 0-based optimiser step.
        Returns:
            For the B images of the part, which is the whole batch where a process trains alone: `x_0` and `eps`
            (B, H, W, C), x_0 in [-1, 1]; `t` (B,), int64 timesteps; `time`, `signal`, `noise`, `target_x0`,
            `target_eps` and `weight` (B,); and the condition by name. With importance sampling also `importance` (B,),
            1 / (T p), a factor of `weight`. With a learned variance also the columns of bound_columns(). Floats have
            training.dtype.
        """
        recipe, process, dataset = self.recipe, self.process, self.dataset
        config, seed = recipe.training, recipe.training.seed
        samples = self.ranks.part(config.batch_size)
        part = slice(samples.start, samples.stop)
        chosen = dataset.train[batch_indices(seed, step, config.batch_size, len(dataset.train))[part]]
        images, codes = np.stack([dataset.images[i] for i in chosen]), None
        if recipe.data.augment:
            sizes = (images.shape[1:3], recipe.data.beside_size if recipe.data.beside else (1, 1))
            square = all(height == width for height, width in sizes)
            codes = symmetry_codes(seed, step, config.batch_size, square)[part]
            images = symmetry(images, codes)
        t, importance = self.levels.draw(step)
        t, importance = t[part], importance[part]
        batch = {
            "x_0": SPACES[recipe.data.space].encode(images.astype(config.dtype), recipe.process.stretch),
            "eps": gaussian(seed, "training_eps", samples, step, recipe.image_shape, config.dtype),
            "t": t,
            **coefficients(process, t, config.dtype),
        }
        if recipe.process.variance == "learned":
            batch |= {name: column[t].astype(config.dtype) for name, column in bound_columns(process).items()}
        if self.levels.importance:
            batch["importance"] = importance.astype(config.dtype)
            for name in ("weight", "bound_weight"):
                if name in batch:
                    batch[name] = batch[name] * batch["importance"]
        return {**batch, **training_condition(recipe, dataset, chosen, images, step, samples, codes)}
