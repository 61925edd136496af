"""A run in its folder: it starts new or from the last checkpoint, and trains to the recipe's last step."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from pathlib import Path
from typing import Any

from core.checkpoints.checkpoint import Checkpoint
from core.checkpoints.run_folder import RunFolder
from core.config import Recipe
from core.config.recipes import to_dict
from core.data.dataset import open_dataset
from core.exits import RunError
from core.files import write_json, writing_to
from core.inference.conditioning import check_condition
from core.networks.specs import count_parameters
from core.reading import reading
from core.training.distillation import make_training
from core.training.evaluation import Evaluation, make_extract
from core.training.loop import TrainingRun, train
from core.training.ranks import Ranks, check_alike, check_divisible
from core.training.training import Training, check_memory_of
from core.twin import Twin

logger = logging.getLogger(__name__)

RESUMABLE = (
    *(f"training.{key}" for key in ("steps", "log_every", "sample_every", "sample_count", "checkpoint_every")),
    *("training.keep_checkpoints", "training.threads", "evaluation.every", "distillation.teacher"),
)
"""Keys of a recipe that may change when a run is resumed. The results of a step do not depend on them."""
RETUNABLE = (
    "training.learning_rate",
    "training.muon_learning_rate",
    "training.clip_norm",
    "training.ema_decay",
    "training.decay",
    "training.final_fraction",
)
"""Keys that may also change with --retune. They change how the optimiser continues from its weights and moments. Data,
objective, network and seed may not change: another value of these needs another run."""


def train_in(
    twin: Twin, recipe: Recipe, path: Path, resume: bool = False, retune: bool = False, ranks: Ranks | None = None
) -> int:
    """Train in a run's folder.

    Args:
        twin: the framework.
        recipe: the recipe to train.
        path: folder of the run; a new folder unless `resume`.
        resume: whether to continue from the run's last whole checkpoint.
        retune: whether RETUNABLE values may differ from the checkpoint's recipe; changes.jsonl records the change.
        ranks: the processes that train together, of which rank 0 writes; None trains alone.
    Returns:
        0 at the last step; otherwise the number of the signal that stopped the training, with everything saved.
    Raises:
        ValueError: the folder already holds a run, or another process trains in it; or the run has reached its last
            step, has no undamaged checkpoint, or has another recipe or other data than its checkpoint.
        RunError: the disk is full or not writable, or the training diverged; no checkpoint is harmed.
    """
    folder, checkpoint, changes, ranks = RunFolder(path), None, {}, ranks or Ranks()
    writes = ranks.rank == 0
    if resume and not (path / "recipe.json").is_file():
        raise ValueError(f"{path}: no run there (no recipe.json)")
    if not resume and writes:
        folder.check_new()
    try:
        with (
            contextlib.ExitStack() as stack
        ):  # a new run's folder, and so its lock, is made when all else is known to fit
            if resume:
                if writes:
                    stack.enter_context(folder.locked())
                checkpoint = folder.load_last()
            if checkpoint:
                changes = check_resumable(checkpoint.recipe, recipe, retune)
                if checkpoint.progress["step"] >= recipe.training.steps:
                    if writes:
                        folder.sweep()
                    raise ValueError(
                        f"{path}: already at step {checkpoint.progress['step']}; give --training.steps to go further"
                    )
            check_memory_of(recipe)
            check_divisible(recipe, ranks)
            dataset = open_dataset(recipe.data, recipe.image_shape, recipe.model.condition_channels)
            check_condition(recipe, dataset)
            training = make_training(twin, recipe, dataset, ranks)
            if checkpoint:
                check_same_data(path, checkpoint.data, training.dataset.manifest, recipe)
            if checkpoint and _teacher_of(checkpoint.data) != _teacher_of(training.record()):
                raise ValueError(
                    f"{path}: the teacher has changed since the checkpoint (other weights in "
                    f"{recipe.distillation.teacher})"
                )
            if checkpoint:
                with reading(path / "checkpoints", "the state of this training", "use another checkpoint"):
                    training.levels.load(checkpoint.state)
            if ranks.count > 1:
                _check_ranks(twin, training, checkpoint)
            return _train(twin, training, folder, checkpoint, changes, None if resume else stack)
    except OSError as error:
        go_on = f"go on with: {twin.prog} train --resume {path}"
        after = f"; no checkpoint is harmed: put it right, then {go_on}" if (path / "recipe.json").is_file() else ""
        raise RunError(f"{error.filename or path}: {error.strerror or error}{after}") from error


def check_same_data(path: Path, before: dict[str, Any], now: dict[str, Any], recipe: Recipe) -> None:
    """Raise ValueError where the pixels of the data, or of the images beside, are not those of the checkpoint."""
    for source, old, new in (
        (recipe.data.source, before, now),
        (recipe.data.beside, before.get("beside") or {}, now.get("beside") or {}),
    ):
        if old.get("sha256") != new.get("sha256"):
            raise ValueError(f"{path}: the data has changed since the checkpoint (other pixels in {source})")


def _check_ranks(twin: Twin, training: Training, checkpoint: Checkpoint | None) -> None:
    """Raise ValueError where another rank has another recipe, other data, or other versions."""
    manifest = training.dataset.manifest
    versions = {key: value for key, value in twin.environment().items() if key not in ("threads", "device")}
    facts = {
        "recipe": to_dict(training.recipe),
        "data set": [found.get("sha256") for found in (manifest, manifest.get("beside") or {})],
        "checkpoint to go on from": checkpoint.progress["step"] if checkpoint else 0,
        "set of versions": versions,
    }
    check_alike(training.ranks, facts)


def _teacher_of(record: dict[str, Any]) -> Any:
    """The sum of the teacher's weights in a record of the data; None without a teacher."""
    distilled = record.get("distilled")
    return distilled.get("weights_sha256") if isinstance(distilled, dict) else None


def check_resumable(trained: Recipe, recipe: Recipe, retune: bool = False) -> dict[str, tuple[Any, Any]]:
    """The values that differ from a checkpoint's recipe, as (old, new) by key.

    Raises:
        ValueError: a value that must not differ.
    """
    old, new, changes = to_dict(trained), to_dict(recipe), {}
    allowed = (*RESUMABLE, *(RETUNABLE if retune else ()))
    for part, values in new.items():
        for key, value in values.items():
            name = f"{part}.{key}"
            if value == old[part][key]:
                continue
            if name not in allowed:
                hint = "; --retune allows it" if name in RETUNABLE else ""
                raise ValueError(
                    f"--{name} = {value!r} with --resume: the checkpoint was trained with {old[part][key]!r}{hint}; "
                    f"only {', '.join(sorted(allowed))} may change"
                )
            changes[name] = (old[part][key], value)
    return changes


def _train(
    twin: Twin,
    training: Training,
    folder: RunFolder,
    checkpoint: Checkpoint | None,
    changes: dict[str, tuple[Any, Any]],
    new: contextlib.ExitStack | None,
) -> int:
    """Prepare the folder and the trainer, and train; `new` holds the lock of a new run's folder."""
    recipe, path, evaluation, ranks = training.recipe, folder.path, None, training.ranks
    writes = ranks.rank == 0
    twin.prepare(recipe.training.threads)
    if recipe.evaluation.every:
        evaluation = Evaluation(recipe, training.dataset, make_extract(twin, recipe))
    step = checkpoint.progress["step"] if checkpoint else 0
    if not writes:
        logger.setLevel(logging.WARNING)
    elif new is None:
        folder.recover(step)
        write_json(path / "recipe.json", to_dict(recipe))
    else:
        with writing_to(path, "--run FOLDER"):
            new.enter_context(folder.locked())
            folder.create(recipe)
    if writes:
        folder.note_change(step, changes)
    run = TrainingRun(training, twin.make_trainer(recipe, ranks))
    if checkpoint:
        run.trainer.load(checkpoint.ema, checkpoint.state, checkpoint.progress["counters"])
        run = dataclasses.replace(run, step=step, seconds=checkpoint.progress["seconds"])
    else:
        training.begin(run.trainer)
    if writes:
        write_json(path / "run.json", twin.environment())
    parameters, images = count_parameters(recipe.model), len(training.dataset.train)
    verb = "goes on" if checkpoint else "starts"
    logger.info(
        "%s %s: %s parameters, %d images to train on, steps %d to %d%s",
        path,
        verb,
        f"{parameters:,}",
        images,
        step,
        recipe.training.steps,
        f", on {ranks.replicas} devices" if ranks.replicas > 1 else "",
    )
    return train(run, folder, evaluation)
