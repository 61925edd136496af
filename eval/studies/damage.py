"""The study `damage`: simulate lenses, damage them, and see which metrics notice."""

from __future__ import annotations

import dataclasses
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.twins.interpreters import Framework, Interpreters
from eval.verbs import main

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DamageStudy(Interpreters):
    """Damage simulated lenses in known ways and see which metrics notice: tables, damage.json and damage.md.

    Images with seven kinds of damage at five strengths, and images without substructure, are held against undamaged
    ones. The lens extractor's metrics stand beside those of pixels and spectra. It takes some minutes on two CPU cores.

    Examples:
      python -m eval damage
      python -m eval damage --size 32 --field-of-view 5 --out runs/damage-32
    """

    out: str = "runs/damage"
    """Folder for damage.json and damage.md."""
    n: int = 1500
    """Images a set, at least 100."""
    size: int = 64
    """Height and width of the images in pixels."""
    field_of_view: float = 7.5
    """Side of the images in arcsec."""
    seed: int = 0
    """Seed of the images, the damage and the random cuts."""
    framework: Framework = "torch"
    """Framework that evaluates the lens extractor."""

    def __post_init__(self) -> None:
        from core.extractors.lens import LARGEST, SMALLEST

        if self.n < 100:
            raise ValueError(f"n = {self.n}: must be at least 100 images")
        if not SMALLEST <= self.size <= LARGEST:
            raise ValueError(
                f"size = {self.size}: must be in [{SMALLEST}, {LARGEST}] pixels, which the lens extractor takes"
            )
        if not self.field_of_view > 0:
            raise ValueError(f"field_of_view = {self.field_of_view}: must be above 0")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed = {self.seed}: must be in [0, 2^31)")

    def execute(self) -> str:
        """Simulate, measure, and write both files."""
        from core.files import write_text_atomic
        from eval.pages.page import write_result
        from eval.studies.damage_page import markdown
        from eval.studies.damage_scores import SPLITS, score_damage, score_substructure
        from eval.studies.damages import Pools
        from eval.twins.client import Worker
        from eval.twins.features import FeatureWorker, open_extractor

        log.info("simulating %s images and measuring them", f"{11 * self.n:,}")
        extractor = open_extractor("lens")
        with Worker(self.framework) as worker:
            pools = Pools(self.n, self.size, self.field_of_view, self.seed, FeatureWorker(worker, extractor))
        kept = ("n", "size", "field_of_view", "seed", "framework")
        protocol: dict[str, Any] = {key: value for key, value in dataclasses.asdict(self).items() if key in kept}
        protocol |= {"splits": SPLITS, "extractor_sha256": extractor.sha256}
        result = {"protocol": protocol, **score_damage(pools), "substructure": score_substructure(pools)}
        table = markdown(result)
        write_result(Path(self.out) / "damage.json", result)
        write_text_atomic(Path(self.out) / "damage.md", table)
        return table


if __name__ == "__main__":
    sys.exit(main(DamageStudy, "python -m eval.studies.damage"))
