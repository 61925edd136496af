"""The study `reference_speed`: how fast this machine trains, and so how long a reference minute is on it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np

from core.config.recipes import load_recipe, to_dict
from eval.twins.client import Worker
from eval.twins.interpreters import ROOT, Framework, Interpreters
from eval.verbs import main

REFERENCE = 130.0
"""Images a second of the reference machine: the demo network's float32 training step in PyTorch on two threads."""
SETTLING = 4
"""Steps that are not counted. The first one compiles."""


def images_per_second(framework: Framework = "torch", threads: int = 2, steps: int = 20) -> float:
    """Median speed of the demo recipe's optimiser steps on random images, in images a second."""
    recipe = load_recipe(ROOT / "configs" / "demo.toml")
    recipe = replace(recipe, training=replace(recipe.training, warmup_steps=0))
    with Worker(framework, threads=threads, timeout=3600.0) as worker:
        times = worker.call("time_training", recipe=to_dict(recipe), steps=SETTLING + steps)[0]["seconds"]
    return recipe.training.batch_size / float(np.median(times[SETTLING:]))


@dataclass(frozen=True, kw_only=True)
class ReferenceSpeed(Interpreters):
    """Time the demo network's training step in PyTorch, and say how many seconds a reference minute has here.

    A figure of "five reference minutes" is that of a machine that trains the demo network at 130 images a second. A
    machine twice as fast has half the seconds. Nothing else may run meanwhile. It takes half a minute.

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
