"""The one training loop: batches, logging, sample grids, checkpoints, resume, interrupts.

A twin supplies a `Trainer`; sharding, compilation and devices happen inside it. This module imports no framework.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np

from core.checkpoints.checkpoint import Checkpoint
from core.checkpoints.run_folder import RunFolder
from core.command_line import RunError
from core.config import Recipe
from core.data.dataset import Dataset
from core.diffusion.process import Process, make_process
from core.diffusion.samplers import make_table
from core.images import grid, save_png
from core.inference.conditioning import data_record, own_condition, weak_condition
from core.inference.sampling import Sampler, draw
from core.training.batches import Batch, make_batch
from core.training.evaluation import Evaluator
from core.training.levels import LevelSampler
from core.training.optim import scalars

logger = logging.getLogger(__name__)

MOST_SKIPPED_IN_A_ROW = 20


class Trainer(Protocol):
    """What a twin supplies."""

    def step(self, batch: Batch, scalars: dict[str, float]) -> dict[str, Any]:
        """One optimiser step, scalars as core.training.optim.scalars: `loss`, `grad_norm`, `skipped`, `skipped_in_a_row` as scalars on the device,
        and with importance sampling `losses` (B,), weighted.

        A step whose loss or gradient norm is not finite changes nothing but the two counters.
        """
        ...

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, int]]:
        """EMA weights; 'params/', 'exp_avg/', 'exp_avg_sq/' and the I-th profile's 'profile_I/' by canonical name; counters."""
        ...

    def load(self, ema: dict[str, np.ndarray], state: dict[str, np.ndarray], counters: dict[str, int]) -> None:
        """Go back to a state."""
        ...

    def ema_sampler(self) -> Sampler:
        """The executor over the EMA weights as they are now."""
        ...


class Stopper:
    """Turns the first Ctrl-C into a request to stop after the step; the second one stops at once."""

    requested = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Handle SIGINT."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        logger.info("stopping after this step; Ctrl-C again stops at once, without saving")


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[Stopper]:
    """Install a Stopper for SIGINT, and put the old handler back at the end."""
    stopper = Stopper()
    previous = signal.signal(signal.SIGINT, stopper)
    try:
        yield stopper
    finally:
        signal.signal(signal.SIGINT, previous)


class Meter:
    """Sums what happened since the last line of metrics."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a new interval."""
        self.losses: list[Any] = []
        self.started = time.monotonic()

    def line(self, step: int, lr: float, batch_size: int, metrics: dict[str, Any], seconds: float) -> dict[str, Any]:
        """One line of metrics.jsonl; loss is the mean over the interval (null where no loss was finite)."""
        losses = np.array([float(loss) for loss in self.losses])  # waits for the device
        finite = losses[np.isfinite(losses)]
        norm = float(metrics["grad_norm"])
        rate = len(losses) * batch_size / max(time.monotonic() - self.started, 1e-9)
        return {
            "step": step,
            "loss": float(finite.mean()) if len(finite) else None,
            "grad_norm": norm if np.isfinite(norm) else None,
            "lr": lr,
            "images_per_second": round(rate, 2),
            "skipped": int(metrics["skipped"]),
            "seconds": round(seconds, 3),
        }


def train(
    recipe: Recipe, trainer: Trainer, dataset: Dataset, run: RunFolder, step: int, seconds: float,
    evaluator: Evaluator | None = None, levels: LevelSampler | None = None,
) -> bool:  # fmt: skip
    """Train from `step` to the recipe's last step.

    Args:
        recipe: the run.
        trainer: holding the state after `step` optimiser steps.
        dataset: the prepared data.
        run: where metrics, samples and checkpoints go.
        step: optimiser steps done so far.
        seconds: wall-clock seconds spent on them.
        evaluator: measures the network now and then; the best checkpoint by it is kept.
        levels: draws the noise levels, and has the state after `step` steps; a new one where None.
    Returns:
        Whether the end was reached; False after an interrupt, with everything saved.
    Raises:
        RunError: 20 steps in a row were not finite.
        OSError: disk full or not writable; the checkpoints so far are whole.
    """
    from tqdm import tqdm

    config, process = recipe.training, make_process(recipe.process)
    levels = levels or LevelSampler(config, process)
    meter, before, started = Meter(), seconds, time.monotonic()
    best = run.best_distance() if evaluator else math.inf
    progress = tqdm(initial=step, total=config.steps, desc="train", unit="step", dynamic_ncols=True, smoothing=0.05)
    with stop_on_interrupt() as stopper, progress:
        while step < config.steps:
            values = scalars(config, step)
            batch = make_batch(recipe, process, dataset, step, levels)
            metrics = trainer.step(batch, values)
            levels.note(batch, metrics)
            meter.losses.append(metrics["loss"])
            step += 1
            progress.update()
            last = step == config.steps or stopper.requested
            _check_finite(metrics, step, run)
            due = evaluator is not None and evaluator.due(step)
            if step % config.log_every == 0 or last or due:
                line = meter.line(step, values["lr"], config.batch_size, metrics, before + time.monotonic() - started)
                if evaluator is not None and due:
                    line["distance"] = evaluator(trainer.ema_sampler())
                run.log(line)
                progress.set_postfix(loss=line["loss"], lr=f"{values['lr']:.1e}", refresh=False)
                meter.restart()
            if config.sample_count and (
                step == config.steps or (config.sample_every and step % config.sample_every == 0)
            ):
                _save_grid(recipe, process, trainer, dataset, run.path / "samples" / f"step-{step:08d}.png")
                meter.restart()
            better = due and line["distance"] < best
            if step % config.checkpoint_every == 0 or last or better:
                folder = save(recipe, trainer, dataset, run, step, before + time.monotonic() - started, levels)
                meter.restart()
                if better:
                    best = line["distance"]
                    run.keep_best(folder)
            if stopper.requested:
                return step == config.steps
    return True


def _check_finite(metrics: dict[str, Any], step: int, run: RunFolder) -> None:
    """Stop a run that has gone astray; the last checkpoint is from before."""
    if int(metrics["skipped_in_a_row"]) >= MOST_SKIPPED_IN_A_ROW:
        raise RunError(
            f"{MOST_SKIPPED_IN_A_ROW} steps in a row had a loss or gradient that is not finite, the last one step {step}; "
            f"lower training.learning_rate and start again, or go on from the last checkpoint in {run.path}"
        )


def _save_grid(recipe: Recipe, process: Process, trainer: Trainer, dataset: Dataset, path: Path) -> None:
    count, config = recipe.training.sample_count, recipe.sampling
    seed, dtype = recipe.training.seed, recipe.training.dtype
    condition = own_condition(recipe, dataset, range(count), seed)
    table = make_table(process, config)
    images = draw(
        trainer.ema_sampler(), table, recipe.image_shape, seed, range(count), config.batch_size, dtype, condition,
        weak=weak_condition(recipe, condition),
    )  # fmt: skip
    save_png(path, grid(images.astype(np.float32)))


def save(
    recipe: Recipe, trainer: Trainer, dataset: Dataset, run: RunFolder, step: int, seconds: float, levels: LevelSampler
) -> Path:
    """Write a checkpoint of the run."""
    ema, state, counters = trainer.state()
    progress = {
        "step": step,
        "data_position": step * recipe.training.batch_size,
        "seed": recipe.training.seed,
        "seconds": round(seconds, 3),
        "counters": counters,
    }
    data = data_record(recipe, dataset)
    return run.save(Checkpoint(recipe, ema, state | levels.state(), progress, data), recipe.training.keep_checkpoints)
