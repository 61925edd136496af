"""The command line that both twins share: train, sample, worker. `python -m torch_impl` and `python -m tf_impl` call main().

This module imports no framework: a twin hands in functions that import theirs when they are called, so that --help
answers at once.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from core.command import RunError, end, parse, verb
from core.config import (
    DataConfig,
    ModelConfig,
    ProcessConfig,
    Recipe,
    Sampler,
    SamplingConfig,
    Spacing,
    TrainingConfig,
    Variance,
    load_recipe,
    to_dict,
)

if TYPE_CHECKING:
    from core.data.dataset import Dataset
    from core.model.checkpoint import Checkpoint

T = TypeVar("T")

logger = logging.getLogger(__name__)

VERBS = {
    "train": "train a network, or go on with a run",
    "sample": "draw images from a run or a checkpoint",
    "worker": "serve arrays to the tests and the comparison (not for people)",
}
# What may change when a run goes on: nothing that the numbers depend on, except the number of steps.
RESUMABLE = {"steps", "log_every", "sample_every", "sample_count", "checkpoint_every", "keep_checkpoints", "threads"}


@dataclass(frozen=True)
class Twin:
    """What a framework supplies; every function imports the framework when it is called."""

    package: str
    set_threads: Callable[[int], None]
    describe: Callable[[], dict[str, Any]]
    make_trainer: Callable[[Recipe], Any]
    make_sampler: Callable[[ModelConfig, dict[str, np.ndarray], str], Any]
    tasks: Callable[[], dict[str, Any]]
    """The worker's tasks that need tensors: forward and gradients."""

    @property
    def prog(self) -> str:
        """How this twin is called."""
        return f"python -m {self.package}"


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


@dataclass(frozen=True)
class SampleCommand:
    """Draw images from a run, a checkpoint, or a diffusers pipeline folder.

    Image i of a seed is the same image in both frameworks, whatever the batch size and range. Sampling options that
    are not given are the recipe's.

    Examples:
      python -m PACKAGE sample --checkpoint runs/mine --n 64 --out runs/mine/out
      python -m PACKAGE sample --checkpoint runs/mine --sampler ddpm --steps 1000 --seed 7 --out ddpm
      python -m PACKAGE sample --checkpoint runs/mine/checkpoints/step-00002000 --n 16 --gif --out film
      python -m PACKAGE sample --checkpoint runs/mine --first 40 --n 10 --out images-40-to-49
    """

    checkpoint: str = ""
    """Run, checkpoint or pipeline folder; may also be given as the first word after `sample`."""
    out: str = ""
    """Folder to write samples.npy, grid.png and manifest.json to; CHECKPOINT/samples-SAMPLER-STEPS-SEED where not given."""
    n: int = 64
    """Number of images."""
    first: int = 0
    """Index of the first image: --first 40 --n 10 draws images 40 to 49 of the seed."""
    seed: int = 0
    """Seed of the noise."""
    weights: Literal["ema", "raw"] = "ema"
    """Averaged weights, or those of the last step."""
    class_name: str | None = None
    """Class to draw, by name or number, for a class-conditional network; each in turn where not given."""
    gif: bool = False
    """Also write denoising.gif: the predicted images of the first 16, from noise to image."""
    overwrite: bool = False
    """Replace samples that are already in the folder."""
    threads: int = 0
    """CPU threads; 0 for the framework's choice."""
    sampler: Sampler | None = None
    """Sampling method."""
    steps: int | None = None
    """Evaluations of the network an image."""
    spacing: Spacing | None = None
    """Where on the training grid the steps lie."""
    eta: float | None = None
    """Noise of ddim, from 0 (deterministic) to 1."""
    variance: Variance | None = None
    """Variance of ddpm."""
    clip: bool | None = None
    """Clip the predicted image to [-1, 1] at every step."""
    batch_size: int | None = None
    """Images at a time."""

    def __post_init__(self) -> None:
        for name, low in (("n", 1), ("first", 0), ("seed", 0), ("threads", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least {low}")


def main(twin: Twin, argv: Sequence[str] | None = None) -> int:
    """Run one twin's command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return end(lambda: _run(twin, arguments))


def _run(twin: Twin, argv: list[str]) -> int:
    run = {"train": _train, "sample": _sample, "worker": _worker}[verb(argv, VERBS, twin.prog)]
    return run(twin, argv[1:])


def _parse(default: T, twin: Twin, argv: list[str], name: str) -> T:
    """Read a verb's flags; its docstring is the help's text, examples included."""
    text = inspect.cleandoc(type(default).__doc__ or "").replace("PACKAGE", twin.package)
    return parse(type(default), argv, f"{twin.prog} {name}", text, default)


def _worker(twin: Twin, argv: list[str]) -> int:
    from core import worker

    if argv and argv[0] in ("-h", "--help"):
        print(f"usage: {twin.prog} worker [--threads N]\n\n{VERBS['worker']}; requests on stdin, answers on stdout.")
        return 0
    tasks = {
        "train": worker.train_task(twin.make_trainer),
        "sample": worker.sample_task(twin.make_sampler),
        "time_training": worker.TimedTraining(twin.make_trainer),
        "time_sampling": worker.TimedSampling(twin.make_sampler),
        "peak_memory": worker.peak_memory,
        "describe": lambda arrays, options: ({}, environment(twin)),
        **twin.tasks(),
    }
    return worker.serve(twin.set_threads, tasks, argv)


def _given(argv: list[str], flag: str) -> str | None:
    """A flag's value, read ahead of the real parser, which needs the recipe that it names for its defaults."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(f"{flag}="):
            return word.split("=", 1)[1]
    return None


def _train(twin: Twin, argv: list[str]) -> int:
    config, resume = _given(argv, "--config"), _given(argv, "--resume")
    if config and resume:
        raise ValueError("--config with --resume: a resumed run keeps its own recipe; give one of the two")
    if resume and not (Path(resume) / "recipe.json").is_file():
        raise ValueError(f"--resume {resume}: no run there (no recipe.json)")
    base = load_recipe(Path(resume) / "recipe.json") if resume else load_recipe(config) if config else Recipe()
    parts = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    command = _parse(TrainCommand(**parts), twin, argv, "train")
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
            if value != old[part][key] and not (part == "training" and key in RESUMABLE):
                raise ValueError(
                    f"--{part}.{key} = {value!r} with --resume: the run was started with {old[part][key]!r}; "
                    f"only training.{', training.'.join(sorted(RESUMABLE))} may change"
                )


def _train_in(twin: Twin, recipe: Recipe, path: Path, resuming: bool) -> int:
    """Train in a run's folder, from its last checkpoint or from nothing."""
    from core.data.dataset import open_dataset
    from core.model.checkpoint import load_checkpoint, resolve_checkpoint
    from core.training.batches import check_labels

    checkpoint = None
    if resuming and (path / "latest").is_file():
        checkpoint = load_checkpoint(resolve_checkpoint(path))
        if checkpoint.progress["step"] >= recipe.training.steps:
            raise ValueError(
                f"{path}: already at step {checkpoint.progress['step']}; give --training.steps to go further"
            )
    dataset = open_dataset(recipe.data, recipe.image_shape)
    check_labels(recipe, dataset)
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
    from core.model.checkpoint import write_json
    from core.model.unet_spec import count_parameters
    from core.training.loop import train
    from core.training.run_folder import RunFolder

    run = RunFolder(path)
    if resuming:
        write_json(path / "recipe.json", to_dict(recipe))
    else:
        run.create(recipe)
    step = checkpoint.progress["step"] if checkpoint else 0
    run.recover(step)
    twin.set_threads(recipe.training.threads)
    trainer = twin.make_trainer(recipe)
    if checkpoint:
        trainer.load(checkpoint.ema, checkpoint.state, checkpoint.progress["counters"])
    write_json(path / "run.json", environment(twin))
    logger.info(
        "%s %s: %s parameters, %d images to train on, steps %d to %d",
        path, "goes on" if checkpoint else "starts", f"{count_parameters(recipe.model):,}", len(dataset.train), step,
        recipe.training.steps,
    )  # fmt: skip
    return train(recipe, trainer, dataset, run, step, checkpoint.progress["seconds"] if checkpoint else 0.0)


def environment(twin: Twin) -> dict[str, Any]:
    """What a manifest says of the machine and the versions."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        **twin.describe(),
    }


def _dry_run(twin: Twin, recipe: Recipe) -> int:
    from core.data.dataset import open_dataset
    from core.diffusion.process import make_process
    from core.model.unet_spec import count_parameters
    from core.training.batches import check_labels, make_batch
    from core.training.optim import scalars

    print(json.dumps(to_dict(recipe), indent=2))
    dataset = open_dataset(recipe.data, recipe.image_shape)
    check_labels(recipe, dataset)
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


def _name_the_checkpoint(argv: list[str]) -> list[str]:
    """`sample RUN --n 4` or `sample --n 4 RUN` as `sample --checkpoint RUN --n 4`: the word that is no flag's value."""
    fields = dataclasses.fields(SampleCommand)
    switches = {"-h", "--help"} | {f"--{no}{f.name}" for f in fields if f.type == "bool" for no in ("", "no-")}
    flags: list[str] = []
    words: list[str] = []
    takes_value = False
    for word in argv:
        bare = not takes_value and not word.startswith("-")
        (words if bare else flags).append(word)
        takes_value = not takes_value and not bare and "=" not in word and word not in switches
    if len(words) > 1:
        raise ValueError(f"sample {' '.join(words)}: takes one run or checkpoint; options start with --")
    return ["--checkpoint", *words, *flags] if words else flags


def _sample(twin: Twin, argv: list[str]) -> int:
    command = _parse(SampleCommand(), twin, _name_the_checkpoint(argv), "sample")
    if not command.checkpoint:
        raise ValueError("sample: no run or checkpoint given; for example: sample runs/mine --out images")
    from core.diffusion.process import make_process
    from core.diffusion.samplers import make_table
    from core.model.checkpoint import resolve_checkpoint
    from core.sampling import class_labels, open_source, sample_manifest, write_samples

    folder = resolve_checkpoint(command.checkpoint)
    source = open_source(folder, command.weights)
    names = ("sampler", "steps", "spacing", "eta", "variance", "clip", "batch_size")
    given = {name: getattr(command, name) for name in names if getattr(command, name) is not None}
    if "sampler" in given and given["sampler"] != "ddim":
        given.setdefault("eta", 0.0)
    sampling = dataclasses.replace(source.sampling, **given)
    table = make_table(make_process(source.process), sampling)
    name = f"samples-{sampling.sampler}-{sampling.steps}-seed{command.seed}"
    out = Path(command.out) if command.out else Path(command.checkpoint) / name
    if (out / "samples.npy").exists() and not command.overwrite:
        raise ValueError(f"{out}: already holds samples; name another --out, or give --overwrite")
    samples = range(command.first, command.first + command.n)
    labels = class_labels(source.model, source.data, samples, command.class_name)
    twin.set_threads(command.threads)
    started = time.monotonic()
    sampler = twin.make_sampler(source.model, source.weights, source.dtype)
    images, frames = _draw(sampler, table, source, sampling, command, samples, labels)
    manifest = {
        **sample_manifest(source, sampling, table, started),
        "weights": command.weights,
        "seed": command.seed,
        "first": command.first,
        "n": command.n,
        "labels": None if labels is None else labels.tolist(),
        **environment(twin),
    }
    write_samples(out, images, frames, manifest)
    print(f"wrote {out / 'samples.npy'}, {out / 'grid.png'}" + (f", {out / 'denoising.gif'}" if frames else ""))
    return 0


def _draw(
    sampler: Any, table: Any, source: Any, sampling: SamplingConfig, command: SampleCommand, samples: range, labels: Any
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw with a progress bar over the evaluations of the network; also the frames of the GIF."""
    from tqdm import tqdm

    from core.sampling import denoising_frames, draw

    frames: list[np.ndarray] = []
    batches = -(-command.n // sampling.batch_size)
    with tqdm(total=batches * table.nfe, desc="sample", unit="eval", dynamic_ncols=True) as progress:

        def callback(row: int, x_0: np.ndarray) -> None:
            if command.gif and progress.n < table.nfe:
                denoising_frames(row, table.nfe, x_0, frames)
            progress.update()

        shape = (*source.model.sample_size, source.model.in_channels)
        images = draw(
            sampler, table, shape, command.seed, samples, sampling.batch_size, source.dtype, labels, callback
        )  # fmt: skip
    return images, frames
