"""The study `reference_speed`: how fast this machine trains, and so how long a reference minute is on it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from core.config import ModelConfig, ProcessConfig, Recipe, TrainingConfig
from core.config.recipes import to_dict
from eval.twins.client import Worker
from eval.twins.interpreters import Framework, Interpreters
from eval.verbs import main

NETWORK = Recipe(
    ModelConfig(
        sample_size=(32, 32),
        block_out_channels=(16, 32, 32),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        norm_num_groups=8,
        attention_head_dim=32,
    ),
    ProcessConfig(schedule="cosine", prediction="v"),
    training=TrainingConfig(batch_size=64, warmup_steps=0),
)
"""What is timed: the demo's first network. It stays as it is, whatever becomes of the demo."""
REFERENCE = 130.0
"""Images a second of the reference machine: its float32 training step in PyTorch on two threads."""
SETTLING = 4
"""Steps that are not counted. The first one compiles."""


def images_per_second(framework: Framework = "torch", threads: int = 2, steps: int = 20) -> float:
    """Median speed of the optimiser steps of NETWORK on random images, in images a second."""
    with Worker(framework, threads=threads, timeout=3600.0) as worker:
        times = worker.call("time_training", recipe=to_dict(NETWORK), steps=SETTLING + steps)[0]["seconds"]
    return NETWORK.training.batch_size / float(np.median(times[SETTLING:]))


@dataclass(frozen=True, kw_only=True)
class ReferenceSpeed(Interpreters):
    """Time a training step of a fixed network in PyTorch, and say how many seconds a reference minute has here.

    The reference machine trains the demo's first network at 130 images a second. On a machine twice as fast a
    reference minute has 30 seconds. Nothing else may run meanwhile. It takes half a minute.

    Examples:
      python -m eval.studies.reference_speed
    """

    threads: int = 2
    """Number of CPU threads."""

    def execute(self) -> str:
        """Time, and say it."""
        speed = images_per_second(threads=self.threads)
        return (
            f"{speed:.0f} images/s: {speed / REFERENCE:.2f} of the reference machine's {REFERENCE:.0f}; "
            f"a reference minute has {60 * REFERENCE / speed:.0f} s here"
        )


if __name__ == "__main__":
    sys.exit(main(ReferenceSpeed, "python -m eval.studies.reference_speed"))
