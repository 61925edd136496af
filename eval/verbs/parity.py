"""The verb `parity`."""

from __future__ import annotations

from dataclasses import dataclass

from eval.twins.interpreters import Interpreters


@dataclass(frozen=True, kw_only=True)
class Parity(Interpreters):
    """Climb the parity ladder: the same network in both frameworks, compared from its tables to whole trainings.

    Writes report.html and parity.json: every comparison with its worst element, its tolerance and the reason for it.
    The exit code is 1 where a comparison is red. A small network takes minutes on two CPU cores; for a large one,
    choose fewer images and a shorter run.

    Examples:
      python -m eval parity
      python -m eval parity --checkpoint runs/mine --out runs/mine/parity
      python -m eval parity --config configs/cifar10.toml --images 4 --ddpm-images 0 --long-steps 0
    """

    config: str = "configs/demo.toml"
    """Recipe whose network is compared, with random weights."""
    checkpoint: str | None = None
    """Run, checkpoint or pipeline folder whose network is compared, in place of the recipe's."""
    out: str = "runs/parity"
    """Folder for parity.json and report.html."""
    images: int = 64
    """Images a sampler."""
    ddpm_images: int = 2
    """Images of the whole DDPM, which steps through every timestep; 0 leaves it out."""
    long_steps: int = 300
    """Optimiser steps of the longer run, whose drift is plotted; 0 leaves it out."""
    stop_at_red: bool = False
    """End with the first rung that is red: later rungs are mostly red as a consequence."""

    def execute(self) -> str:
        """Climb, and write both files."""
        from eval.parity import report

        return report.run(
            self.config,
            self.checkpoint,
            self.out,
            images=self.images,
            ddpm_images=self.ddpm_images,
            long_steps=self.long_steps,
            stop_at_red=self.stop_at_red,
        )
