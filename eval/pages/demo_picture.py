"""The demo's picture: real images, PyTorch's and TensorFlow's side by side, and the same weights in both below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.files import write_atomically
from core.images import grid, in_strips, note_of_strips, strip_columns
from eval.pages.demo_page import GRID, REAL_TITLE, Material, amplification

DPI = 180
PROOF_COLUMNS = 18


def sheet(images: npt.NDArray[Any], columns: int) -> npt.NDArray[np.float64]:
    """Images side by side, (H, W, 1 or 3), NaN (which is drawn as nothing) or white between them.

    Images of other than one or three channels are strips, and the columns are fewer.
    """
    one, columns = in_strips(images), strip_columns(images, columns)
    gap, missing = 1.0 if one.shape[-1] == 3 else np.nan, -len(one) % columns
    padded = np.pad(one.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=gap)
    padded = np.pad(padded, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=gap)
    return np.asarray(grid(padded, columns, pad=0))


def save_picture(path: Path, material: Material) -> None:
    """Write the picture as PNG, atomically: three grids, and a strip of the same weights and noise in both frameworks.

    Args:
        path: file to write.
        material: the demo's images.
    """
    import matplotlib
    from matplotlib.figure import Figure

    titles = {REAL_TITLE: material.real, **material.generated}
    with matplotlib.rc_context({"font.family": "sans-serif", "font.size": 10}):
        figure = Figure(figsize=(10.8, 5.7), dpi=DPI, facecolor="white", layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=(3.5, 1.9))
        top, bottom = parts
        for axes, (title, images) in zip(top.subplots(1, 3), titles.items(), strict=True):
            axes.imshow(sheet(images[: GRID * GRID], GRID), cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(title, fontweight="bold")
            axes.axis("off")
        first, second = material.same_pair
        factor = amplification(material.largest_difference)
        apart = (second - first)[..., :1] if first.shape[-1] == 3 else second - first
        difference = (apart * factor + 1) / 2
        bottom.suptitle("The same weights and the same noise in both frameworks", fontweight="bold", fontsize=12)
        if note := note_of_strips(first.shape[-1]):
            top.supxlabel(note, fontsize=9)
        strips = {
            "PyTorch": (first, "inferno"),
            "TensorFlow": (second, "inferno"),
            f"difference\nx {factor:,.0f}": (difference, "RdBu_r"),
        }
        for axes, (title, (images, colours)) in zip(bottom.subplots(3, 1), strips.items(), strict=True):
            columns = min(PROOF_COLUMNS, len(images))
            axes.imshow(sheet(images[:columns], columns), cmap=colours, vmin=0, vmax=1, interpolation="nearest")
            axes.axis("off")
            axes.text(-0.005, 0.5, title, transform=axes.transAxes, ha="right", va="center", fontsize=9)
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
