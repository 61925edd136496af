"""The result of `eval spd` as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.pages.tables import text_table

LABELS = {
    "energy_distance": ("Energy distance", "log-Euclidean distance, unbiased"),
    "mmd_squared": ("MMD²", "Gaussian kernel, unbiased"),
    "mean_squared": ("Means, squared", "log-Euclidean"),
    "karcher_squared": ("Means, squared", "affine-invariant"),
    "log_variance_ratio": ("Log-variance", "generated / real: 1 is right"),
    "precision": ("Precision", "share of generated on the real manifold"),
    "coverage": ("Coverage", "share of real balls with a generated matrix"),
}


def label(metric: str) -> tuple[str, str]:
    """Name and meaning of a metric."""
    number = metric.removeprefix("wasserstein_")
    return LABELS.get(metric) or (f"Wasserstein {number}", f"log-eigenvalue {number}, ascending")


def cell(value: Mapping[str, float] | None) -> str:
    """Mean and standard deviation, or a dash."""
    return "–" if value is None else f"{value['mean']:.3g} ± {value['std']:.2g}"


def spd_text(result: Mapping[str, Any]) -> str:
    """The metrics, one a line: generated, the Gaussian in the chart, and real against real."""
    real, generated = result["real"], result["generated"]
    rows = [["", "generated", "Gaussian", "real", "greatest", ""]]
    for metric, found in result["metrics"].items():
        name, meaning = label(metric)
        greatest = f"{found['floor']['greatest']:.3g}"
        rows.append([name, *(cell(found[key]) for key in ("generated", "gaussian", "floor")), greatest, meaning])
    missing = "; they have no distance, so none is given" if generated["not_spd"] else ""
    lines = [
        f"real: {real['source']}, N = {real['n']:,}, halved in {result['pairs']} ways; matrices of "
        f"{result['m']} x {result['m']}",
        f"generated: {generated['source']}, N = {generated['n']:,} ({generated['measured']:,} measured)",
        f"positive definite: {generated['n'] - generated['not_spd']:,} of {generated['n']:,}{missing}",
        "",
        text_table(rows, left=1),
        "",
        f"Gaussian: drawn in the chart with the mean and covariance of {result['gaussian']['fitted_to']}",
        f"real: one half against the other, N = {result['half']:,} each; mean ± deviation, and the greatest",
    ]
    return "\n".join(lines)
