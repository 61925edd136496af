"""The pictures of the study of results: the first real images and each framework's side by side, not selected."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.data.dataset import Dataset
from core.files import write_atomically
from eval.pages.demo_picture import sheet

DPI = 130
COLUMNS = 6
"""Of images without classes; else there is a column a class."""


def shown(dataset: Dataset, columns: int, by_class: bool) -> npt.NDArray[Any]:
    """The first held-out images, columns x columns of them; a class a column, as the frameworks draw them."""
    held_out = dataset.held_out
    if by_class and dataset.labels is not None:
        labels = dataset.labels[held_out]
        each = [held_out[labels == label] for label in range(columns)]
        rows = min(columns, *(len(part) for part in each))
        held_out = np.array([part[row] for row in range(rows) for part in each], np.int64)
    return np.asarray(dataset.images[held_out[: columns * columns]])


def save_picture(path: Path, pictures: Mapping[str, npt.NDArray[Any]], columns: int, colours: str) -> None:
    """Write the picture as PNG, atomically.

    Args:
        path: file to write.
        pictures: title -> (N, H, W, C) in [0, 1], of which the first columns x columns are shown.
        columns: images in a row.
        colours: a map of matplotlib's, for images of one channel.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.family": "sans-serif", "font.size": 10}):
        figure = Figure(figsize=(3.9 * len(pictures), 4.2), dpi=DPI, facecolor="white", layout="constrained")
        axes: Any = figure.subplots(1, len(pictures))
        for one, (title, images) in zip(axes, pictures.items(), strict=True):
            one.imshow(
                sheet(images[: columns * columns], columns), cmap=colours, vmin=0, vmax=1, interpolation="nearest"
            )
            one.set_title(title, fontweight="bold")
            one.axis("off")
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
