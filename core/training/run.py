"""A whole run in its folder: from nothing or from the last checkpoint, to the recipe's last step."""

from __future__ import annotations

import logging
from pathlib import Path

from core.checkpoints.checkpoint import Checkpoint, load_checkpoint, resolve_checkpoint
from core.checkpoints.run_folder import RunFolder
from core.command_line import RunError
from core.config import Recipe
from core.config.recipes import to_dict
from core.data.dataset import open_dataset
from core.files import write_json
from core.networks.specs import count_parameters
from core.training.evaluation import Evaluation, make_extract
from core.training.loop import TrainingRun, train
from core.training.training import Training
from core.twin import Twin

logger = logging.getLogger(__name__)


def train_in(twin: Twin, recipe: Recipe, path: Path, resume: bool = False) -> bool:
    """Train in a run's folder.

    Args:
        twin: the framework.
        recipe: what to train.
        path: the folder; a new one, unless `resume`.
        resume: go on from the run's last checkpoint.
    Returns:
        Whether the end was reached; False after Ctrl-C, with everything saved.
    Raises:
        ValueError: a folder that holds a run already, a run that has reached its end, or data that changed.
        RunError: the disk is full or not writable, or the training diverged; no checkpoint is harmed.
    """
    checkpoint = None
    if resume and (path / "latest").is_file():
        checkpoint = load_checkpoint(resolve_checkpoint(path))
        if checkpoint.progress["step"] >= recipe.training.steps:
            raise ValueError(
                f"{path}: already at step {checkpoint.progress['step']}; give --training.steps to go further"
            )
    training = Training(recipe, open_dataset(recipe.data, recipe.image_shape))
    if checkpoint and checkpoint.data.get("sha256") != training.dataset.manifest.get("sha256"):
        raise ValueError(f"{path}: the data has changed since the checkpoint (other pixels in {recipe.data.source})")
    try:
        return _train(twin, training, RunFolder(path), checkpoint, resume)
    except OSError as error:
        go_on = f"go on with: {twin.prog} train --resume {path}"
        after = f"; no checkpoint is harmed: put it right, then {go_on}" if (path / "recipe.json").is_file() else ""
        raise RunError(f"{error.filename or path}: {error.strerror or error}{after}") from error


def _train(twin: Twin, training: Training, folder: RunFolder, checkpoint: Checkpoint | None, resume: bool) -> bool:
    """Make or tidy the folder, make the trainer, and train."""
    recipe, path, evaluation = training.recipe, folder.path, None
    if not resume:
        folder.check_new()
    twin.set_threads(recipe.training.threads)
    if recipe.evaluation.every:
        evaluation = Evaluation(recipe, training.dataset, make_extract(twin, recipe))
    if resume:
        write_json(path / "recipe.json", to_dict(recipe))
    else:
        folder.create(recipe)
    step = checkpoint.progress["step"] if checkpoint else 0
    folder.recover(step)
    run = TrainingRun(training, twin.make_trainer(recipe))
    if checkpoint:
        training.levels.load(checkpoint.state)
        run.trainer.load(checkpoint.ema, checkpoint.state, checkpoint.progress["counters"])
        run.step, run.seconds = step, checkpoint.progress["seconds"]
    write_json(path / "run.json", twin.environment())
    parameters, images = count_parameters(recipe.model), len(training.dataset.train)
    verb = "goes on" if checkpoint else "starts"
    logger.info(
        "%s %s: %s parameters, %d images to train on, steps %d to %d",
        path, verb, f"{parameters:,}", images, step, recipe.training.steps,
    )  # fmt: skip
    return train(run, folder, evaluation)
