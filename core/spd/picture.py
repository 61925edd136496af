"""Pictures of matrices: ellipses or heat maps, and the clouds of their log-eigenvalues. It needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.files import write_atomically
from core.spd.chart import Array, matrix_log
from core.spd.matrices import log_eigenvalues

SHOWN = 12
"""Matrices of each set that are drawn."""
LARGEST_ELLIPSE = 3
"""Largest m whose matrices are drawn as ellipses."""
DOTS = 2000
"""Matrices of each set whose log-eigenvalues are drawn."""
COLOURS = ("#1f2937", "#f97316", "#3b82f6")


def save_picture(path: Path, sets: Mapping[str, Array]) -> None:
    """Draw sets of matrices one above another, and below them all their log-eigenvalues. The file is PNG.

    For m of 2 or 3 a matrix is drawn as the ellipse of its first two coordinates. A larger one is drawn as its
    logarithm, with one colour scale for all matrices.

    Args:
        path: file to write.
        sets: title -> (N, m, m) positive definite matrices of one m.
    """
    from matplotlib.figure import Figure

    shown = {title: values[:SHOWN] for title, values in sets.items()}
    m = next(iter(shown.values())).shape[1]
    rows = 0 if m == 1 else len(shown)
    figure = Figure(figsize=(10.8, 0.95 * rows + 3.2), dpi=120, facecolor="white", layout="constrained")
    grid: Any = figure.add_gridspec(rows + 1, SHOWN, height_ratios=[1.0] * rows + [3.2])
    largest = max(np.sqrt(np.linalg.eigvalsh(values)[:, -1]).max() for values in shown.values())
    limit = max(np.abs(matrix_log(values)).max() for values in shown.values())
    for row, (title, values) in enumerate(shown.items()):
        for column, matrix in enumerate(values if rows else values[:0]):
            axes = figure.add_subplot(grid[row, column])
            if m <= LARGEST_ELLIPSE:
                _ellipse(axes, matrix, largest, COLOURS[row % len(COLOURS)])
            else:
                axes.imshow(matrix_log(matrix[None])[0], cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.set_xticks([])
            axes.set_yticks([])
            if column == 0:
                axes.set_ylabel(title, fontsize=9)
    _clouds(figure.add_subplot(grid[rows, :]), sets)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def _ellipse(axes: Any, matrix: Array, largest: float, colour: str) -> None:
    """The points x with x^T A^-1 x = 1, where A is the matrix of the first two coordinates."""
    angle = np.linspace(0, 2 * np.pi, 90)
    points = np.linalg.cholesky(matrix[:2, :2]) @ np.stack([np.cos(angle), np.sin(angle)])
    axes.plot(*points, color=colour, linewidth=1.2)
    axes.set_xlim(-largest, largest)
    axes.set_ylim(-largest, largest)
    axes.set_aspect("equal")


def _clouds(axes: Any, sets: Mapping[str, Array]) -> None:
    """The largest log-eigenvalue over the least; a histogram where m is 1."""
    for (title, values), colour in zip(sets.items(), COLOURS, strict=False):
        logs = log_eigenvalues(values[:DOTS])
        if logs.shape[1] == 1:
            axes.hist(logs[:, 0], bins=40, density=True, histtype="step", color=colour, label=title)
        else:
            axes.plot(logs[:, 0], logs[:, -1], ".", color=colour, markersize=3, alpha=0.4, label=title)
    one = next(iter(sets.values())).shape[1] == 1
    axes.set_xlabel("log X" if one else "least log-eigenvalue")
    axes.set_ylabel("density" if one else "largest log-eigenvalue")
    axes.legend(frameon=False)
