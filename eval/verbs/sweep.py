"""The verb `sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from core.config import Sampler, Spacing
from eval.twins.interpreters import Interpreters


@dataclass(frozen=True, kw_only=True)
class Sweep(Interpreters):
    """Distance against evaluations of the network, for several samplers of one run: sweep.json, curves.svg,
    report.html.

    Samplers are compared at the same number of evaluations, not of steps: heun, for one, takes two evaluations a step.
    Every distance stands beside the real-against-real floor. Images that an earlier sweep drew are used again, so a
    sweep that was cut off goes on where it stopped.

    Examples:
      python -m eval sweep runs/lens-64-torch
      python -m eval sweep runs/demo/torch --samplers dpmsolver++ ddim --nfe 5 10 20 50 --n 500
    """

    WORDS_FIRST: ClassVar = True

    run: str
    """Run whose network draws. Its held-out images are the real ones."""
    samplers: tuple[Sampler, ...] = ("dpmsolver++", "unipc", "heun", "ddim", "ddpm")
    """Samplers to compare."""
    nfe: tuple[int, ...] = (5, 10, 15, 20, 50, 100)
    """Evaluations of the network an image."""
    spacing: Spacing | None = None
    """Grid of the timesteps; by default the recipe's."""
    n: int = 0
    """Images a point; 0 for as many as are held out, at most 2,000."""
    extractor: Literal["lens", "inception", "pixels"] = "lens"
    """Network that takes the features, as in `eval fid`."""
    out: str | None = None
    """Folder for the three files; by default RUN/sweep."""
    framework: Literal["torch", "tensorflow"] | None = None
    """Framework that draws and takes the features; by default the first that is installed."""

    def execute(self) -> str:
        """Draw, measure, and write the three files."""
        from core.files import write_text_atomic
        from eval.measure.sweep import sweep
        from eval.pages.page import write_result
        from eval.pages.sweep_page import picture, sweep_text, write_sweep_page

        result = sweep(self.run, self.samplers, self.nfe, self.n, self.extractor, self.framework, self.spacing)
        folder = Path(self.out) if self.out else Path(self.run) / "sweep"
        write_result(folder / "sweep.json", result)
        write_text_atomic(folder / "curves.svg", picture(result))
        write_sweep_page(folder / "report.html", result)
        return f"{sweep_text(result)}\n\nwrote {folder / 'report.html'}"
