"""The table [evaluation]: the distance measured while the network trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config.limits import check_limits
from core.config.require import requirements

ExtractorName = Literal["lens", "inception"]
Resize = Literal["clean", "legacy"]


@dataclass(frozen=True)
class EvaluationConfig:
    """The Fréchet distance to held-out images, measured while the network trains."""

    every: int = 0
    """Optimiser steps between evaluations; 0 for none. The checkpoint of the smallest distance is kept as `best`."""
    n: int = 1000
    """Number of images drawn at each evaluation, and of held-out images that they are compared with. The distance
    falls with n, so compare only equal n."""
    extractor: ExtractorName = "lens"
    """Network whose features are compared. lens knows strong lenses in one channel; inception must be fetched once."""
    seed: int = 0
    """Seed of the images drawn, the same at every evaluation."""

    def __post_init__(self) -> None:
        check_limits(self, "evaluation")
        need = requirements(self, "evaluation")
        need(self.n >= 2, "n", "at least 2")
