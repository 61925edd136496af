"""Image sets from files: what a comparison reads.

Imports NumPy and core only: no framework, no twin, and nothing that a file could make it run (pickles are refused).
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.metrics.pixels import check_images

FORMS = "a .npy file, a .npz file with the key 'images', or a folder with samples.npy"


@dataclass(frozen=True)
class ImageSet:
    """Images with a name and, where a twin wrote them, the account of how they were made."""

    name: str
    images: npt.NDArray[Any]
    """(N, H, W, C) floats in [0, 1]; a .npy file stays memory-mapped."""
    manifest: dict[str, Any] = dataclass_field(default_factory=dict)
    """manifest.json beside the images: framework, sampler, steps, weights, seed, seconds and the like."""


def _split_name(spec: str) -> tuple[str | None, Path]:
    """NAME=PATH as (NAME, PATH); a path that exists is a path, whatever its characters."""
    name, equals, path = spec.partition("=")
    if equals and name and path and not Path(spec).exists():
        return name, Path(path)
    return None, Path(spec)


def _read_array(path: Path) -> npt.NDArray[Any]:
    """The array of a .npy or .npz file, without running anything in it."""
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        with np.load(path, allow_pickle=False) as archive:
            if "images" not in archive.files:
                raise ValueError(f"keys {', '.join(archive.files) or 'none'}: must hold 'images'")
            return np.asarray(archive["images"])
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        objects = "pickle" in str(error) or "Python objects" in str(
            error
        )  # NumPy's words without and with a memory map
        reason = "holds Python objects, which can run code; save plain floats" if objects else error
        raise ValueError(f"{path}: cannot read the images: {reason}") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    """manifest.json, or nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot read the manifest: {error}") from error
    if not isinstance(manifest, dict):
        raise ValueError(f"{path}: holds {type(manifest).__name__}: must be a JSON object")
    return manifest


def load_image_set(spec: str) -> ImageSet:
    """Read and check one set of images.

    Args:
        spec: PATH or NAME=PATH; the path is a .npy file, a .npz file (key images) or a folder with samples.npy and,
            as an option, manifest.json. Without a name the file's or the folder's own name is taken.
    Returns:
        The set; its images are checked to be (N, H, W, C) floats in [0, 1], every one finite.
    Raises:
        ValueError: missing or unreadable file, or images that `check_images` refuses; the message starts with the path.
    """
    name, path = _split_name(spec)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder: must be {FORMS}")
    manifest: dict[str, Any] = {}
    array_path = path
    if path.is_dir():
        array_path = path / "samples.npy"
        if not array_path.is_file():
            raise ValueError(f"{path}: a folder without samples.npy: must be {FORMS}")
        manifest = _read_manifest(path / "manifest.json")
    elif path.suffix not in (".npy", ".npz"):
        raise ValueError(f"{path}: a {path.suffix or 'nameless'} file: must be {FORMS}")
    images = _read_array(array_path)
    check_images(images, str(array_path))
    own = path.resolve().name if path.is_dir() else path.stem
    return ImageSet(name or own, images, manifest)


def load_generated(specs: tuple[str, ...], reserved: tuple[str, ...]) -> list[ImageSet]:
    """Read several generated sets, with names that tell them apart.

    Args:
        specs: one PATH or NAME=PATH a set.
        reserved: names that mean something else in the result.
    Raises:
        ValueError: as `load_image_set`; two sets of one name, or a reserved name.
    """
    if not specs:
        raise ValueError("--generated: none given: must be at least one PATH")
    sets = [load_image_set(spec) for spec in specs]
    seen: set[str] = set(reserved)
    for item, spec in zip(sets, specs, strict=True):
        if item.name in seen:
            raise ValueError(f"--generated {spec}: the name {item.name!r} is taken; give it one with NAME={spec}")
        seen.add(item.name)
    return sets
