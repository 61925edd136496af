"""The verb `train`: trains a recipe, continues a run, or makes a dry run."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from core.checkpoints.pretrained import refuse_pretrained
from core.command_line import given, output_folder, read_flags
from core.config import (
    DataConfig,
    DistillationConfig,
    EvaluationConfig,
    ModelConfig,
    ProcessConfig,
    Recipe,
    SamplingConfig,
    TrainingConfig,
)
from core.config.recipes import load_recipe, to_dict
from core.twin import Device, Twin

if TYPE_CHECKING:
    from core.training.ranks import Ranks

MOST_MINUTES = 1_000_000
"""Largest value of --minutes, nearly two years."""


@dataclass(frozen=True)
class TrainCommand:
    """Train a network.

    A recipe (--config) holds every option. A flag replaces one value of the recipe.

    Examples:
      python -m PACKAGE train --config configs/demo.toml
      python -m PACKAGE train --config configs/demo.toml --run runs/mine --training.steps 20000
      python -m PACKAGE train --config configs/demo.toml --data.source ~/lenses.zip --data.fit resize
      python -m PACKAGE train --config configs/demo.toml --minutes 5
      python -m PACKAGE train --config configs/demo.toml --dry-run
      python -m PACKAGE train --resume runs/mine
    """

    config: str = ""
    """Recipe to train: a .toml file, or a run's recipe.json. Default: the defaults of all options."""
    run: str = ""
    """Folder of the new run. Default: runs/RECIPE-FRAMEWORK."""
    resume: str = ""
    """Folder of a run to continue from its last checkpoint, with its own recipe."""
    retune: bool = False
    """With --resume, allow another learning rate, clipping norm, decay or averaging. changes.jsonl in the run's folder
    records the change."""
    dry_run: bool = False
    """Print the recipe, the number of parameters, and the memory and time to expect, from three timed steps. Write
    nothing."""
    minutes: float = 0.0
    """Length of the training in minutes of wall clock on this machine. Some steps are timed, and training.steps is
    chosen from them. Start, compilation, sample grids and evaluations are not counted. 0 keeps the recipe's steps."""
    device: Device = "auto"
    """Where to train. auto takes an NVIDIA GPU where there is one, and otherwise the CPU; mps is Apple's GPU. A run may
    change it when it is resumed."""
    model: ModelConfig = field(default_factory=ModelConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)


def train(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    if not argv:
        raise ValueError(
            f"train: nothing to train; give a recipe, for example: {twin.prog} train --config configs/demo.toml"
        )
    config, resume = given(argv, "--config"), given(argv, "--resume")
    if config and resume:
        raise ValueError("--config with --resume: a resumed run keeps its own recipe; give one of the two")
    refuse_pretrained(resume or "", "--resume")
    if resume and not (Path(resume) / "recipe.json").is_file():
        raise ValueError(f"--resume {resume}: no run there (no recipe.json)")
    base = load_recipe(Path(resume) / "recipe.json") if resume else load_recipe(config) if config else Recipe()
    parts = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    command = read_flags(TrainCommand(**parts), twin.package, argv, "train")
    recipe = Recipe(**{name: getattr(command, name) for name in parts})
    if command.retune and not resume:
        raise ValueError("--retune: is for --resume RUN; a new run takes any value")
    check_minutes(command.minutes, argv, ("--resume", "--training.steps"))
    twin = twin.on(command.device)
    stem = Path(config).stem if config else "default"
    named = resume or command.run or f"runs/{stem}-{twin.package.removesuffix('_impl')}"
    run = None if command.dry_run else output_folder(named, "--run")
    if resume and run:
        from core.training.run import check_resumable

        check_resumable(base, recipe, command.retune)
    return train_recipe(twin, recipe, run, command.minutes, bool(resume), command.retune)


def train_recipe(
    twin: Twin, recipe: Recipe, run: Path | None, minutes: float = 0.0, resume: bool = False, retune: bool = False
) -> int:
    """Train in a run's folder, or make a dry run where there is none; returns the exit code.

    Args:
        twin: the framework.
        recipe: the recipe to train.
        run: folder of the run.
        minutes: length of the training, which chooses the number of steps; 0 keeps those of the recipe.
        resume, retune: as in train_in().
    """
    twin.prepare(recipe.training.threads)
    ranks = twin.join()
    if minutes:
        recipe = _fit(twin, recipe, minutes, run, ranks)
    if run is None:
        return _dry_run(twin, recipe, ranks)
    resume = resume or (ranks.restarted and (run / "recipe.json").is_file())
    from core.checkpoints.checkpoint import resolve_checkpoint
    from core.training.run import train_in

    signum = train_in(twin, recipe, run, resume, retune, ranks)
    if ranks.rank:
        return 128 + signum if signum else 0
    if not signum:
        print(f"wrote {resolve_checkpoint(run)}")
        return 0
    go_on = f"go on with: {twin.prog} train --resume {run}"
    print(f"interrupted; the last checkpoint is {resolve_checkpoint(run)}; {go_on}")
    return 128 + signum


def check_minutes(minutes: float, argv: list[str], flags: tuple[str, ...]) -> None:
    """Refuse a length of the training that cannot be, or beside another option that says the number of steps."""
    if not 0 <= minutes <= MOST_MINUTES:
        raise ValueError(f"--minutes {minutes:g}: must be above 0 and at most {MOST_MINUTES:,}; 0 is off")
    for flag in flags if minutes else ():
        if given(argv, flag) is not None:
            raise ValueError(f"--minutes with {flag}: --minutes chooses the steps of a new run; give one of the two")


def _fit(twin: Twin, recipe: Recipe, minutes: float, run: Path | None, ranks: Ranks) -> Recipe:
    """The recipe with the steps that `minutes` hold on this machine; `run` is the folder of the new run, if any."""
    from core.checkpoints.run_folder import RunFolder
    from core.training.pace import fit_to, step_seconds

    if run is not None and not ranks.rank:
        RunFolder(run).check_new()  # said now, not after the timing
    seconds = step_seconds(twin, recipe, 60 * minutes, ranks)
    fitted = fit_to(recipe, 60 * minutes, seconds)
    if not ranks.rank:
        print(f"--minutes {minutes:g}: {fitted.training.steps:,} steps, from timed steps of {seconds:.3f} s")
    return fitted


def _dry_run(twin: Twin, recipe: Recipe, ranks: Ranks) -> int:
    """Print the recipe and what its training costs; rank 0 alone prints."""
    from core.networks.specs import count_parameters
    from core.training.loop import start_training
    from core.training.pace import timed_steps

    if not ranks.rank:
        print(json.dumps(to_dict(recipe), indent=2))
    run = start_training(twin, recipe, ranks)
    times = timed_steps(run)
    if ranks.rank:
        return 0
    seconds = sorted(times[1:])[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform != "darwin" else 1)
    dataset = run.training.dataset
    print(f"bf16 on the CPU   {bf16_of()}")
    print(f"parameters        {count_parameters(recipe.model):,}")
    print(f"images            {len(dataset.train):,} to train on, {len(dataset.held_out):,} held out")
    print(f"memory            {peak / 2**30:.2f} GiB at the peak of three steps (main memory)")
    print(f"first step        {times[0]:.1f} s, compilation included")
    print(f"step              {seconds:.3f} s, {recipe.training.batch_size / seconds:.1f} images/s (median of three)")
    print(f"whole run         {seconds * recipe.training.steps / 3600:.2f} h for {recipe.training.steps:,} steps")
    return 0


def bf16_of(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What the processor has for products in bf16, in words, by Linux's description of it."""
    try:
        flags = set(cpuinfo.read_text(encoding="utf-8").split())
    except OSError:
        return "unknown, since the system has no /proc/cpuinfo"
    if "amx_bf16" in flags:
        return "AMX and AVX-512" if "avx512_bf16" in flags else "AMX"
    return "AVX-512, no AMX" if "avx512_bf16" in flags else "no instructions for it"
