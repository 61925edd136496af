"""What the parts of the verb `gpu-check` share: the twin that is checked, and the networks it is checked with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from core.config import Autocast, ModelConfig, Recipe, SamplingConfig, TrainingConfig
from core.config.recipes import load_recipe
from core.inference.conditioning import Condition, own_condition
from core.twin import Twin
from core.worker.timing import random_dataset

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]

NETWORKS = ("demo", "lens-64", "cifar10")
"""Recipes in configs/ whose networks are checked."""
TOY = ModelConfig(
    (8, 8),
    1,
    1,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(8, 8),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
)
PRECISIONS: dict[str, Autocast] = {"fp32": "none", "tf32": "tf32", "bf16": "bf16"}
"""training.autocast by the name in the tables."""


@dataclass(frozen=True)
class Check:
    """What the parts share."""

    twin: Twin
    """The twin on the device that is checked."""
    toy: bool
    """Whether everything is tiny, as on a CPU."""

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """The recipes whose networks are checked, by name."""
        if self.toy:
            training = TrainingConfig(batch_size=4, warmup_steps=2)
            return {"toy": Recipe(TOY, training=training, sampling=SamplingConfig("ddim", 4))}
        return {name: load_recipe(ROOT / "configs" / f"{name}.toml") for name in NETWORKS}

    @property
    def repetitions(self) -> int:
        """Number of interleaved repetitions of a timing."""
        return 2 if self.toy else 5

    @property
    def steps(self) -> int:
        """Number of optimiser steps in one repetition."""
        return 2 if self.toy else 10


def changed(recipe: Recipe, **options: Any) -> Recipe:
    """The recipe with other values of the table training."""
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, **options))


def labels_of(recipe: Recipe, n: int) -> Condition:
    """The condition of n images."""
    return own_condition(recipe, random_dataset(recipe), range(n), 0)
