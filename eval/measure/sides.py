"""The two sides of `eval fid`: what the words REAL and GENERATED name, brought to images on one footing.

Imports NumPy and core only: no framework, no twin; a run is sampled by its twin's verb. What makes a distance
meaningless is refused here: other sizes without a named fit, 8 bits or min-max on one side only, values out of range.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.config.recipes import load_recipe
from core.data.dataset import fit as fit_image
from core.data.dataset import open_dataset, to_float
from core.data.sources import describe, open_source
from core.metrics.pixels import check_images
from eval.measure.image_sets import load_image_set

Images = npt.NDArray[Any]
LEVELS = 255
"""Grey levels of an 8-bit image above black."""


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance that someone saved, as pytorch-fid and clean-fid do."""

    mu: npt.NDArray[np.float64]
    sigma: npt.NDArray[np.float64]
    about: dict[str, Any]
    """What the file says of itself: n, extractor and the like; empty where others wrote it."""


@dataclass(frozen=True)
class Side:
    """One side of a distance: images, or saved statistics."""

    path: str
    images: Images | None
    """(N, H, W, C) floats in [0, 1]."""
    statistics: Statistics | None = None
    others: Images | None = None
    """More real images, of which none is among `images`: they measure the floor."""
    about: dict[str, Any] = field(default_factory=dict)
    """How the images came to be: a sample's manifest, a run's data and split."""

    def fingerprint(self) -> str:
        """SHA-256 of the images as float32, or of the statistics."""
        parts = [self.images] if self.images is not None else []
        parts += [self.statistics.mu, self.statistics.sigma] if self.statistics else []
        digest = hashlib.sha256()
        for part in parts:
            kind = "<f8" if self.statistics else "<f4"
            for start in range(0, len(part), 256):
                digest.update(np.ascontiguousarray(part[start : start + 256], kind).data)
        return digest.hexdigest()


def read_statistics(path: Path) -> Statistics | None:
    """Saved statistics, or None where a .npz file holds something else.

    Raises:
        ValueError: mu and sigma whose shapes do not fit, or a file that cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not {"mu", "sigma"} <= set(archive.files):
                return None
            mu, sigma = archive["mu"].astype(np.float64), archive["sigma"].astype(np.float64)
            about = json.loads(str(archive["about"])) if "about" in archive.files else {}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a whole .npz file of plain arrays ({error}); write it again") from error
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(f"{path}: mu {mu.shape} and sigma {sigma.shape}: must be (d,) and (d, d)")
    return Statistics(mu, sigma, about)


def is_run(path: Path) -> bool:
    """Whether a path is a run's folder with a checkpoint."""
    return (path / "recipe.json").is_file() and (path / "latest").is_file()


def _held_out(path: Path) -> Side:
    """The held-out images of a run's data; those it trained on measure the floor."""
    recipe = load_recipe(path / "recipe.json")
    dataset = open_dataset(recipe.data, recipe.image_shape)
    if len(dataset.held_out) < 2:
        raise ValueError(f"{path}: its data set holds out {len(dataset.held_out)} images: must be at least 2; see data.held_out")  # fmt: skip
    about = {
        "source": recipe.data.source, "split": "held out of training by content hash", "data_sha256": dataset.manifest["sha256"],
        "fit": recipe.data.fit, "normalise": recipe.data.normalise,
    }  # fmt: skip
    held_out, train = (np.asarray(dataset.images[part]) for part in (dataset.held_out, dataset.train))
    return Side(str(path), held_out, others=train, about=about)


def _files(path: Path, size: tuple[int, int] | None, how: str) -> Side:
    """Images as they lie on disk: integers divided by their type's maximum, then fitted."""
    source = open_source(path)
    size = size or source.shape[:2]
    images = np.empty((len(source.names), *size, source.shape[2]), np.float32)
    for index, name in enumerate(source.names):
        values = to_float(source.read(index), name)
        if values.min() < 0 or values.max() > 1:
            raise ValueError(f"{name}: values from {values.min():.6g} to {values.max():.6g}: must be in [0, 1]; prepare them as the training did")  # fmt: skip
        images[index] = fit_image(values, size, how, name)
    about = {"stored": describe(source.shape, source.dtype), "fit": how}
    return Side(str(path), images, about=about)


def read_side(
    spec: str, role: str, draw: Callable[[Path], Path], size: tuple[int, int] | None = None, how: str = "exact"
) -> Side:
    """What a word of the command line names.

    Args:
        spec: a run, a folder with samples.npy, a folder or zip of .npy files or pictures, a .npy, .npz or IDX file, or
            saved statistics (.npz with mu and sigma).
        role: real or generated. A run as real images is its held-out images; as generated ones, what it draws.
        draw: run -> folder with samples.npy drawn from it.
        size: height and width that files are brought to; None for their own.
        how: exact, resize, crop or pad, as data.fit.
    Raises:
        ValueError: one line that names the file and what to do.
    """
    path = Path(spec)
    if is_run(path) and role == "real":
        return _held_out(path)
    if is_run(path):
        path = draw(path)
    if path.suffix == ".npz" and path.is_file():
        statistics = read_statistics(path)
        if statistics is not None:
            return Side(spec, None, statistics, about=statistics.about)
    if (path / "samples.npy").is_file():
        found = load_image_set(str(path))
        return Side(spec, np.asarray(found.images), about=found.manifest)
    return _files(path, size, how)


def is_eight_bit(images: Images) -> bool:
    """Whether every value is one of 256 grey levels, to float32's rounding."""
    scaled = np.asarray(images[:64], np.float64) * LEVELS
    return bool(np.abs(scaled - np.rint(scaled)).max() < 1e-4)


def is_min_max(images: Images) -> bool:
    """Whether every image spans [0, 1] to the ends."""
    return bool((images.min(axis=(1, 2, 3)) == 0).all() and (images.max(axis=(1, 2, 3)) == 1).all())


def check_footing(real: Side, generated: Side) -> None:
    """Refuse what makes the distance meaningless.

    Raises:
        ValueError: images of other sizes, or 8-bit or min-max normalised on one side only, or values out of range.
    """
    if real.images is None or generated.images is None:
        return
    for side in (real, generated):
        check_images(side.images, side.path)
    if real.images.shape[1:] != generated.images.shape[1:]:
        raise ValueError(
            f"{generated.path}: images of {generated.images.shape[1:]} where {real.path} has {real.images.shape[1:]}: must be equal; "
            "name what to do with --fit resize, crop or pad, or give the run as REAL, whose held-out images are prepared"
        )
    eight = [is_eight_bit(side.images) for side in (real, generated)]
    if eight[0] != eight[1]:
        path = (real if eight[0] else generated).path
        raise ValueError(
            f"{path}: holds 8-bit values and the other side does not: rounding alone is then seen as a difference "
            "(1/255 is as large as the sky noise of these data); give --eight-bit to round both, or floats on both"
        )
    if is_min_max(generated.images) and not is_min_max(real.images):
        raise ValueError(
            f"{generated.path}: every image spans exactly [0, 1], as after a min-max of each, and the real ones do not: "
            "must be prepared alike; give the images as they were drawn"
        )


def round_to_eight_bits(side: Side) -> Side:
    """The same side, its images rounded to 256 grey levels by the one rounding rule."""
    from dataclasses import replace

    from core.images import to_uint8

    def rounded(images: Images | None) -> Images | None:
        return None if images is None else to_uint8(images).astype(np.float32) / np.float32(LEVELS)

    return replace(side, images=rounded(side.images), others=rounded(side.others))
