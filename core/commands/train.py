"""The verb `train`: trains a recipe, continues a run, or makes a dry run."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from core.command_line import given, output_folder, read_flags
from core.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    ProcessConfig,
    Recipe,
    SamplingConfig,
    TrainingConfig,
)
from core.config.recipes import load_recipe, to_dict
from core.twin import Device, Twin


@dataclass(frozen=True)
class TrainCommand:
    """Train a network.

    A recipe (--config) holds every option. A flag replaces one value of the recipe.

    Examples:
      python -m PACKAGE train --config configs/demo.toml
      python -m PACKAGE train --config configs/demo.toml --run runs/mine --training.steps 20000
      python -m PACKAGE train --config configs/demo.toml --data.source ~/lenses.zip --data.fit resize
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
    device: Device = "auto"
    """Where to train. auto takes an NVIDIA GPU where there is one, and otherwise the CPU; mps is Apple's GPU. A run may
    change it when it is resumed."""
    model: ModelConfig = field(default_factory=ModelConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def train(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    if not argv:
        raise ValueError(
            f"train: nothing to train; give a recipe, for example: {twin.prog} train --config configs/demo.toml"
        )
    config, resume = given(argv, "--config"), given(argv, "--resume")
    if config and resume:
        raise ValueError("--config with --resume: a resumed run keeps its own recipe; give one of the two")
    if resume and not (Path(resume) / "recipe.json").is_file():
        raise ValueError(f"--resume {resume}: no run there (no recipe.json)")
    base = load_recipe(Path(resume) / "recipe.json") if resume else load_recipe(config) if config else Recipe()
    parts = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    command = read_flags(TrainCommand(**parts), twin.package, argv, "train")
    recipe = Recipe(**{name: getattr(command, name) for name in parts})
    if command.retune and not resume:
        raise ValueError("--retune: is for --resume RUN; a new run takes any value")
    twin = twin.on(command.device)
    if command.dry_run:
        return _dry_run(twin, recipe)
    stem = Path(config).stem if config else "default"
    run = output_folder(resume or command.run or f"runs/{stem}-{twin.package.removesuffix('_impl')}", "--run")
    from core.checkpoints.checkpoint import resolve_checkpoint
    from core.training.run import check_resumable, train_in

    if resume:
        check_resumable(base, recipe, command.retune)
    signum = train_in(twin, recipe, run, bool(resume), command.retune)
    if not signum:
        print(f"wrote {resolve_checkpoint(run)}")
        return 0
    go_on = f"go on with: {twin.prog} train --resume {run}"
    print(f"interrupted; the last checkpoint is {resolve_checkpoint(run)}; {go_on}")
    return 128 + signum


def _dry_run(twin: Twin, recipe: Recipe) -> int:
    """Print the recipe and what its training costs."""
    from core.networks.specs import count_parameters
    from core.training.loop import start_training

    print(json.dumps(to_dict(recipe), indent=2))
    run, times = start_training(twin, recipe), []
    for _ in range(4):  # the first one compiles and is not counted
        started = time.perf_counter()
        float(run.advance()["loss"])
        times.append(time.perf_counter() - started)
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
