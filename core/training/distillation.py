"""Distillation: a training on images that a teacher predicts, so that one step of DDIM does what several did.

The student's step goes from x_t to a cleaner level. There the teacher arrives in several steps, and x_0 of the batch
becomes the image for which the student arrives there in one. eps becomes the rest of x_t, which itself stays as it was.
So the objective is the ordinary one, for every prediction and in both frameworks.
Source: Salimans & Ho 2022, Progressive distillation for fast sampling of diffusion models, algorithm 2.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.checkpoints.checkpoint import resolve_checkpoint
from core.checkpoints.sums import COUNTERS
from core.checkpoints.trained import Trained, open_trained
from core.config import Recipe
from core.data.dataset import Dataset
from core.diffusion.grids import CLEAN, levels_at, timesteps
from core.diffusion.merged import Predict, merged_image, refined
from core.diffusion.samplers import make_steps, table_of
from core.diffusion.table import SamplingTable
from core.files import file_hash
from core.inference.conditioning import CONDITIONS, Condition, no_condition
from core.inference.sampling import Network
from core.training.levels import LevelSampler
from core.training.ranks import Ranks
from core.training.training import Batch, Trainer, Training
from core.twin import Twin

Array = NDArray[np.float64]


def make_training(twin: Twin, recipe: Recipe, dataset: Dataset, ranks: Ranks | None = None) -> Training:
    """The training of a recipe: a distillation where it names a teacher.

    Raises:
        ValueError: the teacher cannot be opened, or does not fit the recipe.
    """
    if recipe.distillation.teacher:
        return Distillation(recipe, dataset, twin, ranks)
    return Training(recipe, dataset, ranks)


class Distillation(Training):
    """A training whose batches hold the images that a teacher's steps lead to.

    Args:
        recipe: distillation names the teacher and its number of evaluations, sampling the student's steps.
        dataset: as in Training.
        twin: the framework, which evaluates the teacher.
        ranks: as in Training.
    Raises:
        ValueError: the teacher cannot be opened, has another network or process, or was trained on other data.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, twin: Twin, ranks: Ranks | None = None) -> None:
        super().__init__(recipe, dataset, ranks)
        self.twin, config, steps = twin, recipe.distillation, recipe.sampling.steps
        self.teacher = _open_teacher(recipe, dataset)
        self.weights_sum = file_hash(*self.teacher.files)  # now, since the files may go while the student is trained
        self.rows = config.teacher_nfe // steps
        """Steps of the teacher to one of the student."""
        starts = timesteps("trailing", steps, self.process.timesteps)
        self.table = self._teacher_table(starts)
        self.levels = LevelSampler(recipe.training, self.process, starts)
        self.first_row = dict(zip(starts.tolist(), range(0, config.teacher_nfe, self.rows), strict=True))

    def _teacher_table(self, starts: NDArray[np.int64]) -> SamplingTable:
        """The teacher's steps; a teacher that was distilled itself has learned those of its own grid."""
        process, config = self.process, self.recipe.distillation
        if self.teacher.data.get("distilled"):
            t = timesteps("trailing", config.teacher_nfe, process.timesteps)
        else:
            t = refined(process, starts, self.rows)
        sampling = dataclasses.replace(self.recipe.sampling, guidance=config.guidance)
        steps, start = make_steps(process, [*levels_at(process, t), CLEAN], sampling)
        return table_of(process, steps, sampling, start)

    @cached_property
    def network(self) -> Network:
        """The teacher on the twin's device; made late, since the number of threads is set before."""
        return self.twin.make_network(self.teacher.model, self.teacher.weights, self.recipe.training.dtype)

    def begin(self, trainer: Trainer) -> None:
        """Give a new trainer the teacher's weights."""
        dtype = self.recipe.training.dtype
        weights = {name: value.astype(dtype) for name, value in self.teacher.weights.items()}
        zeros = {name: np.zeros_like(value) for name, value in weights.items()}
        profiles = {f"profile_{i}": weights for i in range(len(self.recipe.training.ema_profiles))}
        parts = {"params": weights, "exp_avg": zeros, "exp_avg_sq": zeros, **profiles}
        state = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
        trainer.load(weights, state, dict.fromkeys(COUNTERS, 0))

    def record(self) -> dict[str, Any]:
        """The data's record, and as `distilled` the teacher's files and how it was distilled itself, if it was."""
        own = {
            **dataclasses.asdict(self.recipe.distillation),
            "nfe": self.recipe.sampling.steps,
            "weights_sha256": self.weights_sum,
            "teacher_distilled": self.teacher.data.get("distilled"),
        }
        return {**super().record(), "distilled": own}

    def batch(self, step: int) -> Batch:
        """The batch of Training.batch() with the teacher's images in `x_0`, and in `eps` the rest of x_t.

        `weight` weighs the squared error of the image by max(SNR, 1), whatever the network predicts.

        Source: Salimans & Ho 2022, section 4: the weight must not vanish at the first step, where SNR is near 0.
        """
        batch, process, dtype = super().batch(step), self.process, self.recipe.training.dtype
        t = batch["t"]
        signal, noise = (table[t].reshape(-1, 1, 1, 1) for table in (process.signal, process.noise))
        x_t = signal * batch["x_0"] + noise * batch["eps"]
        x_0 = self.images(x_t, t, {name: batch[name] for name in CONDITIONS if name in batch})
        weight = np.maximum(process.snr[t], 1) * process.x0_from_output[t] ** 2
        changed = {"x_0": x_0, "eps": (x_t - signal * x_0) / noise, "weight": weight}
        return {**batch, **{name: value.astype(dtype) for name, value in changed.items()}}

    def images(self, x_t: Array, t: NDArray[np.integer[Any]], condition: Condition) -> Array:
        """The images that the student learns to predict.

        Args:
            x_t: (B, H, W, C) states.
            t: (B,) timesteps of the student's steps.
            condition: arrays of B rows by the network's keyword.
        Returns:
            (B, H, W, C) float64.
        """
        first = np.array([self.first_row[int(level)] for level in t])
        size, found = len(t) // self.recipe.training.accumulate, []
        for part in (slice(start, start + size) for start in range(0, len(t), size)):
            predict = self._predict({name: value[part] for name, value in condition.items()})
            found.append(merged_image(self.table, first[part], self.rows, x_t[part], predict))
        return np.concatenate(found)

    def _predict(self, condition: Condition) -> Predict:
        """The teacher's guided output under a condition."""
        dtype, strong = self.recipe.training.dtype, self.network.bind(condition)
        weak = self.network.bind(no_condition(condition, self.recipe.classes))

        def predict(x: Array, t: Array, guidance: Array) -> NDArray[Any]:
            x, t = x.astype(dtype), t.astype(dtype)
            output = strong.evaluate(x, t)
            if (guidance == 1).all():
                return output
            low = weak.evaluate(x, t)
            guided: NDArray[Any] = low + guidance * (output - low)
            return guided

        return predict


def _open_teacher(recipe: Recipe, dataset: Dataset) -> Trained:
    """The teacher of a recipe.

    Raises:
        ValueError: as Distillation.
    """
    name = recipe.distillation.teacher
    teacher = open_trained(resolve_checkpoint(name))
    for table in ("model", "process"):
        if getattr(teacher, table) != getattr(recipe, table):
            raise ValueError(f"distillation.teacher = {name!r}: must have the recipe's own [{table}]")
    sums = teacher.data.get("sha256"), dataset.manifest.get("sha256")
    distilled, nfe = teacher.data.get("distilled"), recipe.distillation.teacher_nfe
    if distilled and nfe != teacher.sampling.steps:
        steps = teacher.sampling.steps
        raise ValueError(f"distillation.teacher_nfe = {nfe}: must be {steps}, the steps that the teacher has learned")
    if None not in sums and sums[0] != sums[1]:
        raise ValueError(f"distillation.teacher = {name!r}: was trained on other data than {recipe.data.source}")
    return teacher
