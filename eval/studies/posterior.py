"""The study `posterior`: the errors of posterior sampling, on Gaussian images and lenses (docs/inverse-problems.md)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.arrays import read_npy
from core.config import SamplingConfig
from core.reading import read_json
from eval.pages.tables import markdown_table, number, replace_between
from eval.studies.gaussian_posterior import MEASUREMENTS, Problem, compare
from eval.twins.interpreters import ROOT
from eval.verbs import main

PAGE = ROOT / "docs" / "inverse-problems.md"
GAUSSIAN = ("<!-- gaussian: begin -->\n", "<!-- gaussian: end -->\n")
IMAGES = ("<!-- images: begin -->\n", "<!-- images: end -->\n")
DDIM = SamplingConfig("ddim", 1000, clip=False)
DDPM = SamplingConfig("ddpm", 1000, clip=False)
FEW = SamplingConfig("dpmsolver++", 50, "log_snr", clip=False)
ROWS: dict[str, tuple[SamplingConfig, dict[str, Any]]] = {
    "PiGDM, exact covariance": (DDIM, {"exact": True}),
    "PiGDM, exact covariance, dpmsolver++": (FEW, {"exact": True}),
    "PiGDM, variance r_t^2": (DDIM, {}),
    "PiGDM, variance r_t^2, dpmsolver++": (FEW, {}),
    "DPS, step 1": (DDPM, {"method": "dps", "step": 1.0}),
    "DPS, step 0.3": (DDPM, {"method": "dps", "step": 0.3}),
}
"""The methods of the table: the sampler, and options of Problem.observed()."""


def gaussian_table(count: int, seed: int) -> str:
    """A Markdown table: the draws of every method beside the exact posterior of every measurement."""
    rows = []
    for name, operator in MEASUREMENTS.items():
        problem = Problem(operator)
        for method, (sampling, how) in ROWS.items():
            found = compare(problem.draw(problem.observed(**how), sampling, count, seed), *problem.posterior)
            cells = [number(found[key]) for key in ("error", "variance")]
            cells += [number(p) if p >= 1e-3 else "< 0.001" for p in (found["p_mean"], found["p_covariance"])]
            rows.append([name, method, str(sampling.steps), *cells])
    head = ["Measurement", "Method", "Evaluations", "Error of the mean", "Variance ratio", "p, mean", "p, covariance"]
    return markdown_table(head, rows)


def image_row(folder: Path) -> dict[str, str]:
    """What `edit solve` found on held-out images, from its folder."""
    manifest = read_json(folder / "manifest.json")
    draws, truth = read_npy(folder / "draws.npy").astype(np.float64), read_npy(folder / "truth.npy")
    error = draws - truth[:, None]
    # The mean of K draws and the truth are as far apart as K + 1 over K posterior variances.
    expected = np.sqrt(draws.var(axis=1, ddof=1).mean() * (1 + 1 / draws.shape[1]))
    return {
        "evaluations": str(manifest["nfe"]),
        "chi squared of draws": f"{manifest['residual_chi_squared']:.3f}",
        "of the truth": f"{manifest['residual_chi_squared_of_truth']:.3f}",
        "RMS error of a draw": number(float(np.sqrt(np.mean(error**2)))),
        "of the mean of draws": number(float(np.sqrt(np.mean(error.mean(axis=1) ** 2)))),
        "expected of the mean": number(float(expected)),
    }


def images_table(folders: Mapping[str, str]) -> str:
    """A Markdown table with a row a folder of `edit solve`."""
    rows = {name: image_row(Path(folder)) for name, folder in folders.items()}
    keys = list(next(iter(rows.values())))
    return markdown_table(["Measurement, method", *keys], [[name, *row.values()] for name, row in rows.items()])


@dataclass(frozen=True, kw_only=True)
class PosteriorStudy:
    """Write the tables of docs/inverse-problems.md: Gaussian images, and folders of `edit solve` on held-out images.

    Examples:
      python -m eval.studies.posterior
      python -m eval.studies.posterior --folders "blur, PiGDM=runs/solve/blur" "blur, DPS=runs/solve/blur-dps"
    """

    folders: tuple[str, ...] = ()
    """NAME=FOLDER: a row's name, and a folder of `edit solve`. The table of Gaussian images is written where there are
    none."""
    n: int = 2000
    """Number of draws of each Gaussian posterior."""
    seed: int = 0
    """Seed of the draws."""
    page: Path = PAGE
    """File whose tables are replaced."""

    def execute(self) -> str:
        """Compute, and write the page."""
        if not all("=" in word for word in self.folders):
            raise ValueError("--folders: must be NAME=FOLDER, a row's name and a folder of `edit solve`")
        if self.n < 100:
            raise ValueError(f"--n {self.n}: must be at least 100, for the tests of 16 pixels")
        if self.folders:
            replace_between(self.page, *IMAGES, images_table(dict(word.split("=", 1) for word in self.folders)))
        else:
            replace_between(self.page, *GAUSSIAN, gaussian_table(self.n, self.seed))
        return f"wrote {self.page}"


if __name__ == "__main__":
    sys.exit(main(PosteriorStudy, "python -m eval.studies.posterior"))
