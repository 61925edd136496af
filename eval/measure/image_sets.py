"""Sets of images, as every verb reads them: runs, drawn images, files of every kind that `core.data.sources` opens.

A twin is never started here: the caller says how a run is drawn from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from core.checkpoints.pretrained import is_pretrained, pretrained_folder
from core.config.recipes import load_recipe
from core.data.cache import IMAGES, MANIFEST
from core.data.dataset import open_dataset
from core.data.formats import describe
from core.data.pixels import fit as fit_image
from core.data.pixels import to_float
from core.data.sources import open_source
from core.images import to_uint8
from core.reading import read_json, reading, shown
from eval.measure.saved import Features, Moments, read_saved

Images = npt.NDArray[Any]
Role = Literal["real", "generated"]

FORMS = (
    "a run, pretrained:NAME, a folder with samples.npy, a folder or zip of .npy files or pictures, "
    "a .npy, .npz or IDX file, features (.npz with features), or saved statistics (.npz with mu and sigma)"
)
GREY_STEPS = 255
"""Steps between the 256 grey levels of an 8-bit image."""


@dataclass(frozen=True)
class ImageSet:
    """Images, or features or statistics that someone saved of them, with the account of how they were made."""

    path: str
    images: Images | None = None
    """(N, H, W, C) floats in [0, 1]; None where there are features or statistics alone."""
    features: Features | None = None
    """(N, d) float64, one row an image, made by any network."""
    statistics: Moments | None = None
    """As pytorch-fid and clean-fid save them."""
    others: Images | Features | None = None
    """More real images or rows, none of them among `images` or `features`. They measure the floor."""
    about: dict[str, Any] = field(default_factory=dict)
    """manifest.json of drawn images, data and split of a run, or what a saved file says of itself."""

    def all_images(self) -> Images:
        """The images.

        Raises:
            ValueError: features or saved statistics, which hold none.
        """
        if self.images is None:
            held = "saved statistics" if self.features is None else "features"
            raise ValueError(f"{self.path}: holds {held}: must be images")
        return self.images

    def rows(self) -> Images | Features:
        """The images, or the features of each.

        Raises:
            ValueError: saved statistics, which hold neither.
        """
        return self.all_images() if self.features is None else self.features

    def fingerprint(self) -> str:
        """SHA-256 of the images as float32, or of the features or the statistics as float64."""
        digest = hashlib.sha256()
        for part in self.statistics or (self.rows(),):
            for start in range(0, len(part), 256):
                kind = "<f4" if self.images is not None else "<f8"
                digest.update(np.ascontiguousarray(part[start : start + 256], kind).data)
        return digest.hexdigest()

    def rounded(self) -> ImageSet:
        """The same set with its images rounded to 256 grey levels."""

        def to_grey_levels(images: Images | None) -> Images | None:
            return None if images is None else to_uint8(images).astype(np.float32) / np.float32(GREY_STEPS)

        return dataclasses.replace(self, images=to_grey_levels(self.images), others=to_grey_levels(self.others))


def read_image_set(
    path: str, role: Role, draw: Callable[[Path], Path], size: tuple[int, int] | None = None, how: str = "exact"
) -> ImageSet:
    """Read a set of images.

    Args:
        path: one of FORMS.
        role: a run's real images are those held out of its training; its generated ones are drawn from it.
        draw: run -> folder with samples.npy drawn from it.
        size: height and width that files are brought to; None leaves them as they are.
        how: exact, resize, crop or pad, as data.fit.
    Raises:
        ValueError: one line that names the file and what to change.
    """
    place = Path(path)
    if not is_run(place) and not place.exists():
        raise ValueError(f"{path}: no such file or folder: must be {FORMS}")
    if is_run(place):
        if role == "real":
            return _held_out(place)
        place = draw(place)
    if saved := read_saved(place):
        return ImageSet(path, features=saved.features, statistics=saved.statistics, about=saved.about)
    manifest: dict[str, Any] = {}
    file = place / MANIFEST
    if (place / "samples.npy").is_file():
        manifest = read_json(file) if file.is_file() else {}
        place /= "samples.npy"
    elif (place / IMAGES).is_file() and file.is_file():
        manifest = _of_cache(read_json(file))
        place /= IMAGES
    found = _read_files(place, path, size, how, manifest)
    _check_manifest(file, manifest, len(found.all_images()))
    return found


def _check_manifest(path: Path, manifest: dict[str, Any], count: int) -> None:
    """Raise ValueError where a manifest holds a number that is not finite, or other labels than one an image."""
    with reading(path, "a manifest of drawn images", "draw them again"):
        json.dumps(manifest, allow_nan=False)
    labels = manifest.get("labels")
    if labels is not None and not (
        isinstance(labels, list) and len(labels) == count and all(type(label) is int for label in labels)
    ):
        raise ValueError(f"{path}: labels is {shown(labels)}: must be {count} classes, one an image; draw them again")


def read_named(specs: Sequence[str], reserved: Sequence[str], draw: Callable[[Path], Path]) -> dict[str, ImageSet]:
    """Read generated sets by names that tell them apart.

    Args:
        specs: one PATH or NAME=PATH a set. Without NAME the name of the file or folder is taken.
        reserved: names with another meaning in the result.
        draw: as read_image_set's.
    Raises:
        ValueError: as read_image_set; no set, two sets of one name, or a reserved name.
    """
    if not specs:
        raise ValueError("--generated: none given: must be at least one PATH")
    sets: dict[str, ImageSet] = {}
    for spec in specs:
        name, equals, path = spec.partition("=")
        if not (equals and name and path) or Path(spec).exists():  # an existing path may hold any character
            place, path = Path(spec).resolve(), spec
            name = place.name if place.is_dir() else place.stem
        if name in sets or name in reserved:
            raise ValueError(f"--generated {spec}: the name {name!r} is taken; give it one with NAME={spec}")
        sets[name] = read_image_set(path, "generated", draw)
    return sets


def is_run(path: Path) -> bool:
    """Whether a path is a run's folder with a checkpoint, or pretrained:NAME."""
    return is_pretrained(path) or ((path / "recipe.json").is_file() and (path / "latest").is_file())


def _held_out(path: Path) -> ImageSet:
    """The held-out images of a run's data; its training images are the others."""
    recipe = load_recipe((pretrained_folder(path) if is_pretrained(path) else path) / "recipe.json")
    if recipe.data.space != "image":
        raise ValueError(f"{path}: its data are matrices: must be images; `python -m eval spd` measures matrices")
    dataset = open_dataset(recipe.data, recipe.image_shape)
    if len(dataset.held_out) < 2:
        raise ValueError(
            f"{path}: its data hold out {len(dataset.held_out)} images: must be at least 2; see data.held_out"
        )
    about = {
        "source": recipe.data.source,
        "split": "held out of training by content hash",
        "data_sha256": dataset.manifest["sha256"],
        "fit": recipe.data.fit,
        "normalise": recipe.data.normalise,
    }
    held_out, train = (np.asarray(dataset.images[part]) for part in (dataset.held_out, dataset.train))
    return ImageSet(str(path), held_out, others=train, about=about)


def _of_cache(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the manifest of a prepared data set says of its images, in the words of a run's."""
    source, preparation = (manifest.get(key) for key in ("source", "preparation"))
    return {
        "source": source.get("path") if isinstance(source, dict) else None,
        "data_sha256": manifest.get("sha256"),
        "normalise": preparation.get("normalise") if isinstance(preparation, dict) else None,
    }


def _read_files(place: Path, path: str, size: tuple[int, int] | None, how: str, manifest: dict[str, Any]) -> ImageSet:
    """Images from files. Integers are divided by the largest value of their type; floats must lie in [0, 1]."""
    source = open_source(place)
    height, width = size or source.shape[:2]
    dtype = np.result_type(source.dtype, np.float32) if source.dtype.kind == "f" else np.dtype(np.float32)
    images = np.empty((len(source.names), height, width, source.shape[2]), dtype)
    for index, name in enumerate(source.names):
        values = to_float(source.read(index))
        if values.min() < 0 or values.max() > 1:
            span = f"values from {values.min():.6g} to {values.max():.6g}"
            raise ValueError(f"{name}: {span}: must be in [0, 1]; prepare the images as for training")
        images[index] = fit_image(values, (height, width), how, name, "--fit")
    return ImageSet(path, images, about={"stored": describe(source.shape, source.dtype), "fit": how, **manifest})
