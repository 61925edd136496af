"""The verb `distil`: trains a network that draws in few evaluations what a run's network draws in many."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from core.command_line import name_the_checkpoint, output_folder, read_flags
from core.commands.train import check_minutes, train_recipe
from core.config import DistillationConfig, Recipe
from core.twin import Device, Twin

FEWEST_OF_TEACHER = 16
"""Evaluations of a teacher at least, where --teacher-nfe is not given."""


@dataclass(frozen=True)
class DistilCommand:
    """Distil a run: train a network that draws in few evaluations.

    The new network starts from the run's averaged weights. It learns to do in one step of DDIM what the run's network
    does in several, with the run's data. The result is an ordinary run.

    Examples:
      python -m PACKAGE distil runs/mine --nfe 4 --run runs/mine-4
      python -m PACKAGE distil runs/mine-4 --nfe 1 --minutes 30 --run runs/mine-1
      python -m PACKAGE distil runs/mine --nfe 2 --teacher-nfe 32 --steps 20000 --run runs/mine-2
      python -m PACKAGE train --resume runs/mine-4
      python -m PACKAGE sample runs/mine-4 --n 64 --out few
    """

    checkpoint: str = ""
    """Run or checkpoint to distil. The first word after `distil` names it too."""
    run: str = ""
    """Folder of the new run. An interrupted one goes on with `train --resume`."""
    nfe: int = 4
    """Number of evaluations of the new network an image."""
    teacher_nfe: int = 0
    """Number of the teacher's evaluations an image, a multiple of --nfe. More are closer to the exact solution, and
    cost time. 0 takes --nfe times the power of two that makes 16 or more; a run that was distilled has only its own
    number."""
    guidance: float | None = None
    """Guidance scale that the new network learns. It is then drawn from with guidance 1, so that an image takes no
    second evaluation. Default: the run's own."""
    steps: int = 0
    """Number of optimiser steps. 0 takes as many as the run has. More help most where --nfe is 1 or 2."""
    minutes: float = 0.0
    """Length of the training in minutes of wall clock on this machine, in place of --steps. 0 leaves it to --steps."""
    learning_rate: float = 0.0
    """Learning rate at the first steps, from which it falls linearly to 0. 0 takes a quarter of the run's. Muon's rate
    changes by the same factor."""
    seed: int = 1
    """Seed of the order of the data and of the noise."""
    dry_run: bool = False
    """Print the recipe, the memory and the time to expect, from three timed steps. Write nothing."""
    device: Device = "auto"
    """Where to train. auto takes an NVIDIA GPU where there is one, and otherwise the CPU; mps is Apple's GPU."""

    def __post_init__(self) -> None:
        if self.nfe < 1:
            raise ValueError(f"--nfe {self.nfe}: must be at least 1")
        if self.learning_rate < 0:
            raise ValueError(f"--learning-rate {self.learning_rate}: must be above 0, or 0 for a quarter of the run's")


def distil(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    argv = name_the_checkpoint(DistilCommand, argv, "distil")
    command = read_flags(DistilCommand(), twin.package, argv, "distil")
    check_minutes(command.minutes, argv, ("--steps",))
    if not command.checkpoint or not (command.run or command.dry_run):
        raise ValueError("distil: needs a run and --run; for example: distil runs/mine --nfe 4 --run runs/mine-4")
    from core.checkpoints.checkpoint import resolve_checkpoint
    from core.checkpoints.pretrained import is_pretrained
    from core.config.recipes import load_recipe

    folder = resolve_checkpoint(command.checkpoint)
    if not (folder / "recipe.json").is_file():
        raise ValueError(f"{folder}: no recipe.json, so the data that it was trained on are unknown; distil a run")
    name = command.checkpoint if is_pretrained(command.checkpoint) else str(folder)
    recipe = student(load_recipe(folder / "recipe.json"), name, command)
    run = None if command.dry_run else output_folder(command.run, "--run")
    return train_recipe(twin.on(command.device), recipe, run, command.minutes)


def student(teacher: Recipe, name: str, command: DistilCommand) -> Recipe:
    """The recipe of a distillation.

    Args:
        teacher: the recipe of the network to distil.
        name: its checkpoint, or pretrained:NAME.
        command: the flags.
    Raises:
        ValueError: numbers of evaluations that do not go together, or a network that cannot be distilled.
    """
    from core.diffusion.samplers import with_sampler

    config, nfe = teacher.training, command.nfe
    teacher_nfe = command.teacher_nfe or (teacher.sampling.steps if teacher.distillation.teacher else 2 * nfe)
    while not command.teacher_nfe and not teacher.distillation.teacher and teacher_nfe < FEWEST_OF_TEACHER:
        teacher_nfe *= 2
    guidance = teacher.sampling.guidance if command.guidance is None else command.guidance
    drawn = dataclasses.replace(
        with_sampler(teacher.sampling, "ddim"), steps=nfe, nfe=0, spacing="trailing", eta=0.0, guidance=1.0
    )
    steps, rate = command.steps or config.steps, command.learning_rate or config.learning_rate / 4
    training = dataclasses.replace(
        config,
        steps=steps,
        learning_rate=rate,
        muon_learning_rate=config.muon_learning_rate * (rate / config.learning_rate),
        warmup_steps=min(config.warmup_steps, steps // 20),
        decay="linear",
        decay_start=0.0,
        final_fraction=0.0,
        timestep_sampling="uniform",
        stratified=True,
        seed=command.seed,
    )
    return dataclasses.replace(
        teacher,
        training=training,
        sampling=drawn,
        distillation=DistillationConfig(name, teacher_nfe, guidance),
    )
