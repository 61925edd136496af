"""The training loop of both twins: logging, sample grids, checkpoints, resuming and interrupts.

A twin supplies the Trainer, which handles compilation and devices.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoints.checkpoint import Checkpoint, checkpoints_of
from core.checkpoints.run_folder import RunFolder
from core.checkpoints.sums import make_progress
from core.checkpoints.trained import of_recipe
from core.config import Recipe
from core.config.training import MUCH_WAITING
from core.data.dataset import open_dataset
from core.exits import RunError
from core.inference.conditioning import check_condition, own_condition
from core.inference.generator import Generator
from core.inference.space import SPACES
from core.training.distillation import make_training
from core.training.evaluation import Evaluation
from core.training.ranks import Ranks, gather_uneven
from core.training.stopping import stop_on_signals
from core.training.training import Trainer, Training, check_memory_of
from core.twin import Twin

logger = logging.getLogger(__name__)

MOST_SKIPPED_IN_A_ROW = 20
"""Number of optimiser steps in a row without a finite loss and gradient after which a run stops. The run looks at the
number where it logs or saves."""


@dataclass
class TrainingRun:
    """A training in progress. Iterating over it trains."""

    training: Training
    """The recipe, its data and its process."""
    trainer: Trainer
    """The twin's network, average and optimiser."""
    step: int = 0
    """Number of optimiser steps done."""
    seconds: float = 0.0
    """Wall-clock seconds of training before this process."""

    @property
    def recipe(self) -> Recipe:
        """The recipe of the training."""
        return self.training.recipe

    @property
    def ranks(self) -> Ranks:
        """The processes that train together."""
        return self.training.ranks

    def __iter__(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Train to the recipe's last step.

        Yields:
            The number of steps done, and the last step's metrics: loss, grad_norm, lr and skipped.
        """
        while self.step < self.recipe.training.steps:
            metrics = self.advance()
            yield self.step, {name: float(metrics[name]) for name in ("loss", "grad_norm", "lr", "skipped")}

    def advance(self) -> dict[str, Any]:
        """Train one step; returns its metrics. The trainer's own metrics stay on the device."""
        metrics = self.training.advance(self.trainer, self.step)
        self.step += 1
        return metrics

    def generator(self) -> Generator:
        """A generator over the averaged weights as they are now."""
        return Generator(
            self.trainer.ema_network(), of_recipe(self.recipe, self.training.record(), self.training.dataset.chart)
        )

    def draw(self, n: int, seed: int) -> np.ndarray:
        """Draw images (n, H, W, C) in [0, 1] from the averaged weights, conditioned as images of the data are.

        The ranks draw whole batches of sampling.batch_size in turn, so that their number changes no image.
        """
        size, generator = self.recipe.sampling.batch_size, self.generator()
        batches = [range(first, min(first + size, n)) for first in range(0, n, size)]
        own = batches[self.ranks.rank :: self.ranks.count]

        def drawn(samples: range) -> np.ndarray:
            condition = own_condition(self.recipe, self.training.dataset, samples, seed)
            return generator.draw(samples, seed, condition)

        found = np.concatenate([drawn(samples) for samples in own or batches[:1]])  # without one of its own, the shape
        most = -(-len(batches) // self.ranks.count) * size
        images = np.empty((n, *found.shape[1:]), found.dtype)
        for rank, rows in enumerate(gather_uneven(self.ranks, found[: sum(map(len, own))], most)):
            images[[i for samples in batches[rank :: self.ranks.count] for i in samples]] = rows
        return images

    def checkpoint(self, seconds: float) -> Checkpoint:
        """The checkpoint of this step; `seconds` is the wall-clock time of the training so far."""
        ema, state, counters = self.trainer.state()
        progress = make_progress(self.recipe, self.step, counters, seconds)
        state |= self.training.levels.state()
        return Checkpoint(self.recipe, ema, state, progress, self.training.record(), self.training.dataset.chart)


def start_training(twin: Twin, recipe: Recipe, ranks: Ranks | None = None) -> TrainingRun:
    """Start a new training of a recipe on its data; nothing is written to disk. No ranks: the process trains alone."""
    check_memory_of(recipe)
    dataset = open_dataset(recipe.data, recipe.image_shape, recipe.model.condition_channels)
    check_condition(recipe, dataset)
    training = make_training(twin, recipe, dataset, ranks)
    twin.prepare(recipe.training.threads)
    run = TrainingRun(training, twin.make_trainer(recipe, ranks))
    training.begin(run.trainer)
    return run


class Meter:
    """Collects losses and seconds since the last line of metrics."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a new interval."""
        self.losses: list[Any] = []
        self.waited, self.started = 0.0, time.monotonic()

    def add(self, metrics: dict[str, Any]) -> None:
        """Note the metrics of a step."""
        self.losses.append(metrics["loss"])
        self.waited += metrics["waited"]

    def line(self, step: int, batch_size: int, metrics: dict[str, Any], seconds: float) -> dict[str, Any]:
        """One line of metrics.jsonl.

        Its loss is the mean over the interval, or null where no loss was finite. `waiting` is the share of the
        interval's seconds in which the loop waited for batches.
        """
        losses = np.array([float(loss) for loss in self.losses])  # waits for the device
        finite = losses[np.isfinite(losses)]
        norm = float(metrics["grad_norm"])
        passed = max(time.monotonic() - self.started, 1e-9)
        return {
            "step": step,
            "loss": float(finite.mean()) if len(finite) else None,
            "grad_norm": norm if np.isfinite(norm) else None,
            "lr": metrics["lr"],
            "images_per_second": round(len(losses) * batch_size / passed, 2),
            "waiting": round(min(self.waited / passed, 1.0), 4),
            "skipped": int(metrics["skipped"]),
            "seconds": round(seconds, 3),
        }


def train(run: TrainingRun, folder: RunFolder, evaluation: Evaluation | None = None) -> int:
    """Train to the recipe's last step, with metrics, samples and checkpoints in the run's folder.

    Args:
        run: the training, at its first or a resumed step.
        folder: the run's folder.
        evaluation: measures the network at intervals; the checkpoint with the smallest distance is kept.
    Returns:
        0 at the last step; otherwise the number of the signal that stopped the training, with everything saved.
        Rank 0 alone writes and shows the progress. A signal at any rank stops all ranks after the same step.
    Raises:
        RunError: MOST_SKIPPED_IN_A_ROW steps in a row were not finite, or another rank has ended.
        OSError: the disk is full or not writable; earlier checkpoints are whole.
    """
    ranks = run.ranks
    try:
        return _train(run, folder, evaluation)
    except Exception as error:
        if not ranks.is_of_another(error):
            raise
        ended = ", ".join(map(str, ranks.missing())) or "unknown"
        raise RunError(
            f"another process has ended (rank {ended}) after step {run.step}, so this one ends too; its own message "
            f"says why; start all again with train --resume {folder.path}"
        ) from error


def _train(run: TrainingRun, folder: RunFolder, evaluation: Evaluation | None) -> int:
    """As train(), which explains the errors of ranks."""
    from tqdm import tqdm

    config, started, ranks = run.recipe.training, time.monotonic(), run.ranks
    writes = ranks.rank == 0
    meter, best = Meter(), folder.best_distance() if evaluation and writes else math.inf
    bar = {"desc": "train", "unit": "step", "dynamic_ncols": True, "smoothing": 0.05, "disable": not writes}
    progress = tqdm(initial=run.step, total=config.steps, **bar)
    with stop_on_signals() as stopper, progress, contextlib.closing(run.training):
        while run.step < config.steps:
            metrics = run.advance()
            meter.add(metrics)
            progress.update()
            signum = int(ranks.gather(np.array([stopper.signum])).max())
            step, end = run.step, run.step == config.steps
            last = end or bool(signum)
            due = evaluation is not None and evaluation.due(step)
            logs, saves = step % config.log_every == 0 or last or due, step % config.checkpoint_every == 0 or last
            if logs or saves:  # only here, since the counter waits for the device
                _check_finite(metrics, step, folder)
            if logs:
                line = meter.line(step, config.batch_size, metrics, run.seconds + time.monotonic() - started)
                if evaluation is not None and due:
                    images = run.draw(evaluation.config.n, evaluation.config.seed)
                    line["distance"] = evaluation(images) if writes else math.inf
                if writes:
                    folder.log(line)
                waiting = {"waiting": f"{line['waiting']:.0%}"} if line["waiting"] > MUCH_WAITING else {}
                progress.set_postfix(loss=line["loss"], lr=f"{line['lr']:.1e}", **waiting, refresh=False)
                meter.restart()
            if config.sample_count and (end or (config.sample_every and step % config.sample_every == 0)):
                images = run.draw(config.sample_count, config.seed)
                if writes:
                    picture = folder.path / "samples" / f"step-{step:08d}.png"
                    SPACES[run.recipe.data.space].picture(picture, images)
                meter.restart()
            better = due and line["distance"] < best
            if writes and (saves or better):
                seconds = run.seconds + time.monotonic() - started
                saved = save(run, folder, seconds, int(metrics["skipped_in_a_row"]), better)
                meter.restart()
                if better and saved:
                    best = line["distance"]
            if last and not end:  # a signal that came after `last` was set has its checkpoint after the next step
                return signum
    return 0


def _check_finite(metrics: dict[str, Any], step: int, folder: RunFolder) -> None:
    """Stop a run that has diverged; its last checkpoint is older.

    Raises:
        RunError: too many steps in a row were skipped.
    """
    if int(metrics["skipped_in_a_row"]) >= MOST_SKIPPED_IN_A_ROW:
        raise RunError(
            f"{MOST_SKIPPED_IN_A_ROW} steps in a row had a loss or gradient that is not finite; "
            f"the last was step {step}; lower training.learning_rate (and muon_learning_rate) and start again, "
            f"or go on from {_last_good(folder)} with another rate: "
            f"train --resume {folder.path} --retune --training.learning-rate RATE"
        )


def _last_good(folder: RunFolder) -> str:
    return str(next(iter(checkpoints_of(folder.path)), "(no checkpoint yet)"))


def save(
    run: TrainingRun, folder: RunFolder, seconds: float, skipped_in_a_row: int = 0, best: bool = False
) -> Path | None:
    """Write a checkpoint of the run; while steps are being skipped nothing is written, and None is returned.

    At the recipe's last step the weights, which are those of the last finite step, are kept all the same.

    Raises:
        RunError: the weights are not finite; nothing is written.
    """
    if skipped_in_a_row and run.step < run.recipe.training.steps:
        logger.warning(
            "step %d: not saved, since the last %d steps were not finite; the last good checkpoint is %s",
            run.step,
            skipped_in_a_row,
            _last_good(folder),
        )
        return None
    checkpoint = run.checkpoint(seconds)
    for name, value in (*checkpoint.ema.items(), *checkpoint.state.items()):
        if not np.isfinite(value).all():
            raise RunError(
                f"step {run.step}: {name} is not finite, so nothing was saved; "
                f"the last good checkpoint is {_last_good(folder)}"
            )
    return folder.save(checkpoint, 0 if skipped_in_a_row else run.recipe.training.keep_checkpoints, best)
