"""Sets of images with what is known of each: its class, and parameters such as those of a lens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.checkpoints.pretrained import is_pretrained, pretrained_folder
from core.config.recipes import load_recipe
from core.data.cache import MANIFEST
from core.data.dataset import Dataset, open_dataset
from core.data.sources import open_source
from core.random import generator
from core.reading import read_json
from eval.measure.image_sets import Images, is_run, read_image_set

TEST_SHARE = 1 / 3
"""Share of the real images that are kept for the test, where REAL is no run."""


@dataclass(frozen=True)
class Labelled:
    """Images with their classes and parameters."""

    images: Images
    """(N, H, W, C) in [0, 1]."""
    labels: npt.NDArray[np.int64] | None = None
    """(N,) classes."""
    parameters: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """(N,) numbers by name."""

    def rows(self, chosen: npt.NDArray[Any]) -> Labelled:
        """Some of the images."""
        labels = None if self.labels is None else self.labels[chosen]
        parameters = {name: values[chosen] for name, values in self.parameters.items()}
        return Labelled(np.asarray(self.images[chosen]), labels, parameters)


def read_labelled(path: str, draw: Callable[[Path], Path]) -> Labelled:
    """Images with classes or parameters: drawn images with their manifest, class folders, or an .npz file.

    Args:
        path: anything that `eval fid` reads as images; a run stands for images drawn from it.
        draw: run -> folder with samples.npy drawn from it.
    Raises:
        ValueError: one line that names the file and what to change.
    """
    place = draw(Path(path)) if is_run(Path(path)) else Path(path)
    images = read_image_set(str(place), "generated", draw).all_images()
    if (place / "samples.npy").is_file():
        manifest = place / MANIFEST
        said = read_json(manifest) if manifest.is_file() else {}
        labels = said.get("labels")
        return Labelled(images, None if labels is None else np.array(labels, np.int64), _parameters(manifest, said))
    source = open_source(place)
    return Labelled(images, source.labels, source.parameters)


def _parameters(manifest: Path, said: dict[str, Any]) -> dict[str, npt.NDArray[np.float64]]:
    """The parameters that a manifest names, a number an image each."""
    found = said.get("parameters") or {}
    count = said.get("n")
    try:
        arrays = {name: np.array(values, np.float64) for name, values in found.items()}
        if any(values.shape != (count,) or not np.isfinite(values).all() for values in arrays.values()):
            raise ValueError
    except (AttributeError, TypeError, ValueError) as error:
        text = "parameters: must be lists of finite numbers by name, one number an image; draw the images again"
        raise ValueError(f"{manifest}: {text}") from error
    return arrays


def read_real(path: str, seed: int) -> tuple[Labelled, Labelled]:
    """Real images for training and others for the test.

    Args:
        path: a run, whose training images and held-out images these are; or images with classes or parameters, of
            which a third is kept for the test.
        seed: of the choice of that third.
    Raises:
        ValueError: as read_labelled(); a run that holds nothing out.
    """
    if is_run(Path(path)):
        folder = pretrained_folder(path) if is_pretrained(path) else Path(path)
        recipe = load_recipe(folder / "recipe.json")
        dataset = open_dataset(recipe.data, recipe.image_shape)
        if not len(dataset.held_out):
            raise ValueError(f"{path}: its data hold out no images for the test; see data.held_out")
        return _of_dataset(dataset, dataset.train), _of_dataset(dataset, dataset.held_out)
    whole = read_labelled(path, Path)
    order = generator(seed, "rows", 0).permutation(len(whole.images))
    kept = round(TEST_SHARE * len(order))
    return whole.rows(np.sort(order[kept:])), whole.rows(np.sort(order[:kept]))


def _of_dataset(dataset: Dataset, chosen: npt.NDArray[np.int64]) -> Labelled:
    return Labelled(dataset.images, dataset.labels, dataset.parameters).rows(chosen)
