"""The chart of a network of matrices in its checkpoint: chart.json and chart.safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.checkpoints.sums import check_sums
from core.config import Recipe
from core.files import write_json, write_tensors
from core.reading import read_json, read_tensors, shown
from core.spd.chart import Chart, size_of

CHART_FILES = ("chart.json", "chart.safetensors")
FORMAT = 1
TENSORS = ("mean", "whiten", "unwhiten")


def chart_tensors(chart: Chart) -> dict[str, np.ndarray]:
    """The arrays of a chart by name, in float64."""
    return {name: getattr(chart, name) for name in TENSORS}


def checked_chart(folder: Path, recipe: Recipe) -> Chart | None:
    """read_chart() with the sums of its files, for a recipe of matrices; None for one of images."""
    if recipe.data.space != "spd":
        return None
    check_sums(folder, CHART_FILES)
    return read_chart(folder, recipe.model.in_channels)


def write_chart(folder: Path, chart: Chart) -> None:
    """Write the two files into a folder."""
    about = {"format": FORMAT, "space": "spd", "chart": "log_euclidean", "whiten": chart.kind, "m": chart.m}
    write_json(folder / "chart.json", about)
    write_tensors(folder / "chart.safetensors", chart_tensors(chart))


def read_chart(folder: Path, coordinates: int) -> Chart:
    """The chart of a checkpoint.

    Args:
        folder: the checkpoint.
        coordinates: D of its network.
    Raises:
        ValueError: a file is missing or damaged, or the chart is of matrices of another size.
    """
    path = folder / "chart.json"
    for name in CHART_FILES:
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: no such file, and the network draws matrices; use another checkpoint")
    about = read_json(path, {"format": int, "whiten": str, "m": int})
    if about["format"] != FORMAT or about["whiten"] not in ("full", "scale"):
        raise ValueError(f"{path}: format {shown(about['format'])}, whiten {shown(about['whiten'])}: not known")
    tensors = read_tensors(folder / "chart.safetensors")
    if about["m"] != size_of(coordinates):
        m = size_of(coordinates)
        raise ValueError(
            f"{path}: m is {shown(about['m'])}: must be {m}, as the network's {coordinates} coordinates say"
        )
    shapes = {"mean": (coordinates,), "whiten": (coordinates, coordinates), "unwhiten": (coordinates, coordinates)}
    if {name: value.shape for name, value in tensors.items()} != shapes:
        raise ValueError(f"{folder / 'chart.safetensors'}: must hold {', '.join(TENSORS)} of {coordinates} coordinates")
    if any(value.dtype != np.float64 or not np.isfinite(value).all() for value in tensors.values()):
        raise ValueError(f"{folder / 'chart.safetensors'}: must be finite numbers of float64")
    inverse = tensors["whiten"] @ tensors["unwhiten"]
    if not np.allclose(inverse, np.eye(coordinates), atol=1e-4):
        raise ValueError(f"{folder / 'chart.safetensors'}: whiten and unwhiten are not inverse; use another checkpoint")
    return Chart(about["whiten"], *(tensors[name] for name in TENSORS))
