"""The result of `eval spd-regression` as text, and its picture: bands of the draws over each covariate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.files import write_atomically
from eval.pages.tables import text_table

TITLES = {
    "network": "network, log-Euclidean mean",
    "network_karcher": "network, Karcher mean",
    "true_draws": "as many draws from the true law",
    "least_squares": "least squares in the chart",
    "constant": "one constant",
}


def regression_text(result: Mapping[str, Any]) -> str:
    """The errors, a way a line; then variance and coverage."""
    rows = [["", "log-Euclidean²", "median", "affine²", "median", "Frobenius", "median"]]
    for name, title in TITLES.items():
        if found := result["errors"].get(name):
            cells = [f"{found[key][of]:.3g}" for key in found for of in ("mean", "median")]
            rows.append([title, *cells])
    coverage = result["coverage"]
    lines = [
        f"{result['run']} against {result['real']}: {result['n']} rows of covariates, {result['draws']} draws each",
        f"errors against {result['against']}",
        "",
        text_table(rows),
        "",
        f"balls of {coverage['share']:.0%} of the draws hold {coverage['found']:.1%} of the real matrices",
        f"not positive definite: {result['not_spd']} of {result['n'] * result['draws']:,}",
    ]
    if ratio := result.get("log_variance_ratio"):
        lines.append(f"log-variance given y, drawn / true: {ratio['mean']:.3f} ± {ratio['std']:.3f} over y")
    return "\n".join(lines)


def save_bands(path: Path, shown: Mapping[str, Any]) -> None:
    """Draw the log-determinant over each covariate: real matrices as dots, the draws' mean and 5 to 95 % as bars."""
    from matplotlib.figure import Figure

    names, drawn = shown["names"], shown["drawn"]
    figure = Figure(figsize=(4.8 * len(names), 3.6), dpi=120, facecolor="white", layout="constrained")
    low, high = np.quantile(drawn, [0.05, 0.95], axis=1)
    for axes, name, y in zip(np.atleast_1d(figure.subplots(1, len(names))), names, shown["y"].T, strict=True):
        axes.vlines(y, low, high, color="#f97316", alpha=0.35, linewidth=1, label="draws, 5 to 95 %")
        axes.plot(y, drawn.mean(axis=1), ".", color="#f97316", markersize=4, label="mean of the draws")
        axes.plot(y, shown["real"], ".", color="#1f2937", markersize=4, label="real")
        axes.set_xlabel(name)
        axes.set_ylabel("log-determinant")
    axes.legend(frameon=False, fontsize=8)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
