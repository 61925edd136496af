"""The verb `spd-regression`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from eval.twins.interpreters import Interpreters


@dataclass(frozen=True, kw_only=True)
class SpdRegression(Interpreters):
    """A positive definite matrix regressed on covariates by a run's draws.

    For each new row of covariates the network draws matrices. Their Fréchet mean is the prediction, and a ball about it
    that holds 90 % of the draws should hold 90 % of real matrices. Beside it stand a constant, least squares in the
    chart, and for a simulated law as many draws from the true law.

    Examples:
      python -m eval spd-regression runs/spd-regression
      python -m eval spd-regression runs/mine --real held-out.npz --draws 50 --out regression
    """

    WORDS_FIRST: ClassVar = True

    run: str
    """Run of matrices with data.condition."""
    real: str = "simulate:spd-regression"
    """New matrices: the simulated law, or an .npz file that has the covariates by name."""
    n: int = 200
    """Most rows of covariates."""
    draws: int = 100
    """Matrices drawn for each row."""
    seed: int = 1
    """Seed of new matrices, of the rows chosen and of the noise."""
    out: str | None = None
    """Folder for regression.json and regression.png; by default none is written."""
    framework: Literal["torch", "tensorflow"] | None = None
    """Framework that draws; by default the first that is installed."""
    json: bool = False
    """Print the result as JSON instead of a table."""

    def execute(self) -> str:
        """Draw, measure, and write what was named."""
        from core.command_line import output_folder
        from eval.measure.spd_regression import evaluate_regression
        from eval.pages.page import to_json, write_result
        from eval.pages.spd_regression_page import regression_text, save_bands
        from eval.twins.client import Worker
        from eval.twins.interpreters import first_framework

        for name in ("n", "draws"):
            if getattr(self, name) < 2:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least 2")
        folder = output_folder(Path(self.out)) if self.out else None
        worker = Worker(first_framework(self.framework))
        result = evaluate_regression(self.run, self.real, self.n, self.draws, self.seed, worker)
        shown, notes = result.pop("shown"), []
        if folder:
            write_result(folder / "regression.json", result)
            save_bands(folder / "regression.png", shown)
            notes = [f"wrote {folder / name}" for name in ("regression.json", "regression.png")]
        return to_json(result) if self.json else "\n".join([regression_text(result), *notes])
