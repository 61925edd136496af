"""The table [evaluation]: the distance measured while the network trains. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config.require import require

ExtractorName = Literal["lens", "inception"]
Resize = Literal["clean", "legacy"]


@dataclass(frozen=True)
class EvaluationConfig:
    """The distance to held-out images, measured while the network trains."""

    every: int = 0
    """Optimiser steps between evaluations; 0 for none."""
    n: int = 1000
    """Images drawn at each, and held-out images that they are compared with."""
    extractor: ExtractorName = "lens"
    """Network whose features are compared: lens (of strong lenses, one channel) or inception (once fetched)."""
    seed: int = 0
    """Seed of the images drawn; the same at every evaluation."""

    def __post_init__(self) -> None:
        require(self.every >= 0, "evaluation.every", self.every, "at least 0")
        require(self.n >= 2, "evaluation.n", self.n, "at least 2")
        require(0 <= self.seed < 2**63, "evaluation.seed", self.seed, "in [0, 2^63)")
