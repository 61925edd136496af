"""The verb `train`: a recipe into a run, a run gone on with, or a dry run. Imports no framework."""

from __future__ import annotations

import dataclasses
import json
import logging
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.command_line import RunError
from core.config import (
    DataConfig,
    EvaluationConfig,
    ExtractorName,
    ModelConfig,
    ProcessConfig,
    Recipe,
    SamplingConfig,
    TrainingConfig,
)
from core.config.recipes import load_recipe, to_dict
from core.twin import Twin, environment, read_flags

if TYPE_CHECKING:
    from core.checkpoints.checkpoint import Checkpoint
    from core.data.dataset import Dataset
    from core.training.evaluation import Extract

logger = logging.getLogger(__name__)

# What may change when a run goes on: nothing that the numbers depend on, except the number of steps.
RESUMABLE = {
    *(f"training.{key}" for key in ("steps", "log_every", "sample_every", "sample_count", "checkpoint_every")),
    *("training.keep_checkpoints", "training.threads", "evaluation.every"),
}


@dataclass(frozen=True)
class TrainCommand:
    """Train a network.

    A recipe (--config) says everything; any of its values can be given as a flag as well.

    Examples:
      python -m PACKAGE train --config configs/demo.toml
      python -m PACKAGE train --config configs/demo.toml --run runs/mine --training.steps 20000
      python -m PACKAGE train --config configs/demo.toml --data.source ~/lenses.zip --data.fit resize
      python -m PACKAGE train --config configs/demo.toml --dry-run
      python -m PACKAGE train --resume runs/mine
    """

    config: str = ""
    """Recipe to start from: a .toml file, or a run's recipe.json."""
    run: str = ""
    """Folder of the run; runs/RECIPE-FRAMEWORK where it is not given."""
    resume: str = ""
    """Folder of a run to go on with, from its last checkpoint; its own recipe holds."""
    dry_run: bool = False
    """Print the resolved recipe, parameters, memory and the time to expect from three timed steps; write nothing."""
    model: ModelConfig = field(default_factory=ModelConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def _given(argv: list[str], flag: str) -> str | None:
    """A flag's value, read ahead of the real parser, which needs the recipe that it names for its defaults."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(f"{flag}="):
            return word.split("=", 1)[1]
    return None


def train(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    config, resume = _given(argv, "--config"), _given(argv, "--resume")
    if config and resume:
        raise ValueError("--config with --resume: a resumed run keeps its own recipe; give one of the two")
    if resume and not (Path(resume) / "recipe.json").is_file():
        raise ValueError(f"--resume {resume}: no run there (no recipe.json)")
    base = load_recipe(Path(resume) / "recipe.json") if resume else load_recipe(config) if config else Recipe()
    parts = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    command = read_flags(TrainCommand(**parts), twin, argv, "train")
    recipe = Recipe(**{name: getattr(command, name) for name in parts})
    if resume:
        _check_resumable(base, recipe)
    if command.dry_run:
        return _dry_run(twin, recipe)
    stem = Path(config).stem if config else "default"
    run = Path(resume or command.run or f"runs/{stem}-{twin.package.removesuffix('_impl')}")
    return _train_in(twin, recipe, run, resuming=bool(resume))


def _check_resumable(base: Recipe, recipe: Recipe) -> None:
    old, new = to_dict(base), to_dict(recipe)
    for part, values in new.items():
        for key, value in values.items():
            if value != old[part][key] and f"{part}.{key}" not in RESUMABLE:
                raise ValueError(
                    f"--{part}.{key} = {value!r} with --resume: the run was started with {old[part][key]!r}; "
                    f"only {', '.join(sorted(RESUMABLE))} may change"
                )


def _train_in(twin: Twin, recipe: Recipe, path: Path, resuming: bool) -> int:
    """Train in a run's folder, from its last checkpoint or from nothing."""
    from core.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint
    from core.data.dataset import open_dataset
    from core.inference.conditioning import check_condition

    checkpoint = None
    if resuming and (path / "latest").is_file():
        checkpoint = load_checkpoint(resolve_checkpoint(path))
        if checkpoint.progress["step"] >= recipe.training.steps:
            raise ValueError(
                f"{path}: already at step {checkpoint.progress['step']}; give --training.steps to go further"
            )
    dataset = open_dataset(recipe.data, recipe.image_shape)
    check_condition(recipe, dataset)
    if checkpoint and checkpoint.data.get("sha256") != dataset.manifest.get("sha256"):
        raise ValueError(f"{path}: the data has changed since the checkpoint (other pixels in {recipe.data.source})")
    go_on = f"go on with: {twin.prog} train --resume {path}"
    try:
        finished = _train_from(twin, recipe, path, dataset, checkpoint, resuming)
    except OSError as error:
        after = f"; no checkpoint is harmed: put it right, then {go_on}" if (path / "recipe.json").is_file() else ""
        raise RunError(f"{error.filename or path}: {error.strerror or error}{after}") from error
    if finished:
        print(f"wrote {resolve_checkpoint(path)}")
        return 0
    print(f"interrupted; saved {resolve_checkpoint(path)}; {go_on}")
    return 130


def _train_from(
    twin: Twin, recipe: Recipe, path: Path, dataset: Dataset, checkpoint: Checkpoint | None, resuming: bool
) -> bool:
    """Make or tidy the folder and the trainer, and train; whether the end was reached."""
    from core.checkpoints.run_folder import RunFolder
    from core.diffusion.process import make_process
    from core.files import write_json
    from core.networks.specs import count_parameters
    from core.training import loop
    from core.training.evaluation import Evaluator
    from core.training.levels import LevelSampler

    run, evaluation, evaluator = RunFolder(path), recipe.evaluation, None
    if not resuming:
        run.check_new()
    twin.set_threads(recipe.training.threads)
    if evaluation.every:
        evaluator = Evaluator(recipe, dataset, _extract(twin, evaluation.extractor))
    if resuming:
        write_json(path / "recipe.json", to_dict(recipe))
    else:
        run.create(recipe)
    step = checkpoint.progress["step"] if checkpoint else 0
    run.recover(step)
    trainer, levels = twin.make_trainer(recipe), LevelSampler(recipe.training, make_process(recipe.process))
    if checkpoint:
        levels.load(checkpoint.state)
        trainer.load(checkpoint.ema, checkpoint.state, checkpoint.progress["counters"])
    write_json(path / "run.json", environment(twin))
    logger.info(
        "%s %s: %s parameters, %d images to train on, steps %d to %d",
        path, "goes on" if checkpoint else "starts", f"{count_parameters(recipe.model):,}", len(dataset.train), step,
        recipe.training.steps,
    )  # fmt: skip
    seconds = checkpoint.progress["seconds"] if checkpoint else 0.0
    return loop.train(recipe, trainer, dataset, run, step, seconds, evaluator, levels)


def _extract(twin: Twin, name: ExtractorName) -> Extract:
    """Images to the features whose distance is taken."""
    from core.extractors.features import EXTRACTORS, default_weights, extract, first_batch_size

    extractor, tap = (
        twin.make_extractor(name, default_weights(name)[1], "clean", "float32"),
        EXTRACTORS[name].default_tap,
    )
    size = first_batch_size(name, twin.describe()["device"], "float32")

    def features(images: np.ndarray) -> np.ndarray:
        return extract(extractor, lambda start, stop: images[start:stop], len(images), size, (tap,))[tap]

    return features


def _dry_run(twin: Twin, recipe: Recipe) -> int:
    from core.data.dataset import open_dataset
    from core.diffusion.process import make_process
    from core.inference.conditioning import check_condition
    from core.networks.specs import count_parameters
    from core.training.batches import make_batch
    from core.training.optim import scalars

    print(json.dumps(to_dict(recipe), indent=2))
    dataset = open_dataset(recipe.data, recipe.image_shape)
    check_condition(recipe, dataset)
    twin.set_threads(recipe.training.threads)
    process, trainer = make_process(recipe.process), twin.make_trainer(recipe)
    times = []
    for step in range(4):  # the first one compiles and is not counted
        started = time.perf_counter()
        metrics = trainer.step(make_batch(recipe, process, dataset, step), scalars(recipe.training, step))
        float(metrics["loss"])
        times.append(time.perf_counter() - started)
    seconds = sorted(times[1:])[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform != "darwin" else 1)
    print(f"parameters        {count_parameters(recipe.model):,}")
    print(f"images            {len(dataset.train):,} to train on, {len(dataset.held_out):,} held out")
    print(f"memory            {peak / 2**30:.2f} GiB at the peak of three steps (main memory)")
    print(f"first step        {times[0]:.1f} s, compilation included")
    print(f"step              {seconds:.3f} s, {recipe.training.batch_size / seconds:.1f} images/s (median of three)")
    print(f"whole run         {seconds * recipe.training.steps / 3600:.2f} h for {recipe.training.steps:,} steps")
    return 0
