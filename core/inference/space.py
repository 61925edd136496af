"""The spaces that data live in: how stored values become the network's, and back. Images are the trivial space.

Positive definite matrices live in the space `spd`. Their chart turns a matrix into D numbers, which the network sees as
an image of one pixel with D channels. So everything between encoding and decoding is the same for both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.config import SamplingConfig
from core.exits import RunError
from core.images import from_unit, grid, save_png
from core.inference.sampling import finished
from core.spd.chart import Chart


def _check_finite(x: np.ndarray) -> None:
    broken = int((~np.isfinite(x)).reshape(len(x), -1).any(axis=1).sum())
    if broken:
        raise RunError(
            f"{broken} of {len(x)} matrices have values that are not finite: the weights have diverged; "
            "use an earlier checkpoint, or train again with a lower training.learning_rate"
        )


def _image_picture(path: Path, images: np.ndarray) -> None:
    save_png(path, grid(images[:64].astype(np.float32)))


def _matrices(x: np.ndarray, stretch: float, chart: Chart | None) -> np.ndarray:
    """Coordinates (N, 1, 1, D) as matrices (N, m, m) in float64."""
    if chart is None:
        raise ValueError("the network draws coordinates of matrices, and has no chart")
    _check_finite(x)
    with np.errstate(over="ignore", invalid="ignore"):
        matrices = chart.decode(x[:, 0, 0])
    _check_finite(matrices)
    return matrices


def _matrix_picture(path: Path, matrices: np.ndarray) -> None:
    from core.spd.picture import save_picture

    save_picture(path, {"drawn": matrices})


@dataclass(frozen=True)
class Space:
    """What there is to know of a space, one row each."""

    encode: Callable[[np.ndarray, float], np.ndarray]
    """Values of the data set (N, H, W, C) and process.stretch -> the network's x_0."""
    decode: Callable[[np.ndarray, float, Chart | None], np.ndarray]
    """The last state of a sampler (N, H, W, C), process.stretch and the chart -> what is drawn."""
    picture: Callable[[Path, np.ndarray], None]
    """Write a PNG of what is drawn."""
    stored: str
    """The dtype of samples.npy."""


SPACES = {
    "image": Space(from_unit, lambda x, stretch, chart: finished(x, stretch), _image_picture, "float32"),
    "spd": Space(lambda coordinates, stretch: coordinates, _matrices, _matrix_picture, "float64"),
}


def space_of(chart: Chart | None) -> Space:
    """The space of a network: that of matrices where it has a chart."""
    return SPACES["image" if chart is None else "spd"]


def require_images(chart: Chart | None, what: str) -> None:
    """Raise ValueError where `what`, which is for images alone, is asked of a network of matrices."""
    if chart is not None:
        raise ValueError(
            f"{what}: must be of images, and the network draws positive definite matrices; `sample` draws them, and "
            "`python -m eval spd` measures them"
        )


def check_sampling(chart: Chart | None, sampling: SamplingConfig) -> None:
    """Raise ValueError where coordinates of matrices, which have no bounds, are to be clipped."""
    if chart is not None and sampling.clip:
        raise ValueError("sampling.clip = True: must be False for matrices, whose coordinates have no bounds")
