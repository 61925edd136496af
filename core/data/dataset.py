"""Prepared data: one conversion to a memory-mapped cache, and a split by content.

Everything random is a pure function of its arguments, so both twins and a resumed run see the same images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.config import DataConfig, require
from core.data.cache import ARRAYS, IMAGES, MANIFEST, SUMS, Cache, read_cache, seal
from core.data.formats import Image, describe
from core.data.lenses import PRESETS, Parameters, simulator
from core.data.pixels import fingerprint, fit, scale
from core.data.source import BrokenImageError, Source
from core.data.sources import open_source
from core.files import atomic_folder, file_hash, remove_leftovers, write_json, write_npz, writing_to

log = logging.getLogger(__name__)

Indices = npt.NDArray[np.int64]

FORMAT = 1
"""Raised whenever the same source and preparation would give other pixels."""

_LEVELS = 65535  # the manifest's median is exact to 1 / 65535, which spares a sort of the whole set


@dataclass(frozen=True)
class Dataset:
    """Prepared images and what belongs to them.

    Attributes:
        images: (N, H, W, C) float32 in [0, 1], memory-mapped, read-only.
        labels: (N,) int64 in [0, K), or None.
        class_names: K names.
        parameters: name -> (N,) float64.
        train, held_out: sorted indices of images; together all, and no two equal images on different sides.
        manifest: JSON values: source, count, shape, dtype, sha256, statistics, preparation, split, duplicates, labels.
    """

    images: npt.NDArray[np.float32]
    labels: Indices | None
    class_names: tuple[str, ...]
    parameters: dict[str, npt.NDArray[np.float64]]
    train: Indices
    held_out: Indices
    manifest: dict[str, Any]


def simulated(config: DataConfig, image_shape: tuple[int, int, int]) -> Source:
    """The simulator as a source; images are made when they are read."""
    height, width, channels = image_shape
    if channels != 1:
        raise ValueError(f"model.in_channels = {channels}: must be 1 for data.source = {config.source!r}")
    preset = config.source.removeprefix("simulate:")
    require(preset in PRESETS, "data.source", config.source, " or ".join(f"simulate:{name}" for name in PRESETS))
    count, classes = config.simulate_count, config.simulate_classes
    draw = simulator(preset, (height, width), config.simulate_seed, classes, config.field_of_view)
    parameters = {field.name: np.full(count, np.nan) for field in dataclasses.fields(Parameters)}

    def fetch(index: int) -> Image:
        image, _, drawn = draw(index)
        for name, values in parameters.items():
            values[index] = getattr(drawn, name)
        return image

    identity = {
        "path": config.source,
        "count": count,
        "seed": config.simulate_seed,
        "classes": list(classes),
        "field_of_view": config.field_of_view,
        "size": [height, width],
    }
    names = [f"{config.source}[{index}]" for index in range(count)]
    labels = np.arange(count, dtype=np.int64) % len(classes)
    return Source(names, image_shape, np.dtype(np.float32), fetch, labels, tuple(classes), parameters, identity)


def _progress(count: int, what: str) -> Any:
    from tqdm import tqdm

    return tqdm(range(count), desc=what, unit="image", leave=False)


def _extremes(source: Source) -> tuple[float, float]:
    """Smallest and largest value of all images of a source."""
    low, high = np.inf, -np.inf
    for index in _progress(len(source.names), "Looking for extremes"):
        image = source.read(index)
        low, high = min(low, float(image.min())), max(high, float(image.max()))
    return low, high


def _convert(source: Source, config: DataConfig, shape: tuple[int, int, int], folder: Path) -> dict[str, Any]:
    """Write the images, the other arrays and the sums of the source's files into a folder; returns the manifest."""
    source, skipped = source.without_broken() if config.skip_broken else (source, [])
    count = len(source.names)
    low, high = _extremes(source) if config.normalise == "dataset" else (0.0, 1.0)
    digest, hashes = hashlib.sha256(), []
    least, largest, total, squares = np.inf, -np.inf, 0.0, 0.0
    histogram = np.zeros(_LEVELS + 1, np.int64)
    # Written in order, not through a memory map: on a full disk that is an OSError, where a map is a bus error.
    with open(folder / IMAGES, "wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, *shape)}
        np.lib.format.write_array_header_1_0(stream, header)
        for index in _progress(count, "Preparing images"):
            image, name = source.read(index), source.names[index]
            hashes.append(fingerprint(image))
            values = fit(scale(image, name, config.normalise, low, high), shape[:2], config.fit, name)
            stored = np.ascontiguousarray(values, "<f4")
            stream.write(stored.data)
            digest.update(stored.data)
            least, largest = min(least, float(stored.min())), max(largest, float(stored.max()))
            total, squares = total + float(values.sum()), squares + float((values * values).sum())
            levels = np.rint(stored.ravel() * np.float32(_LEVELS)).astype(np.int64)
            histogram += np.bincount(levels, minlength=_LEVELS + 1)
    pixels = count * int(np.prod(shape))
    mean = total / pixels
    arrays: dict[str, npt.NDArray[Any]] = {f"parameter_{name}": values for name, values in source.parameters.items()}
    arrays["hashes"] = np.frombuffer(b"".join(hashes), np.uint8).reshape(count, 32)
    if source.labels is not None:
        arrays["labels"] = source.labels
    write_npz(folder / ARRAYS, arrays)
    write_json(folder / SUMS, {name: source.file_sum(name) for name in source.files})
    return {
        "format": FORMAT,
        "source": source.identity,
        "stored": describe(source.shape, source.dtype),
        "count": count,
        "shape": list(shape),
        "dtype": "float32",
        "sha256": digest.hexdigest(),
        "arrays_sha256": file_hash(folder / ARRAYS),
        "source_sums_sha256": file_hash(folder / SUMS),
        "min": least,
        "max": largest,
        "mean": mean,
        "std": max(squares / pixels - mean * mean, 0.0) ** 0.5,
        "median": float(np.searchsorted(np.cumsum(histogram), pixels / 2)) / _LEVELS,
        "preparation": _preparation(config),
        "duplicates": count - len(set(hashes)),
        "class_names": list(source.class_names),
        **({"skipped": skipped} if config.skip_broken else {}),
    }


def _preparation(config: DataConfig) -> dict[str, str | bool]:
    skip = {"skip_broken": True} if config.skip_broken else {}  # no key otherwise: older caches stay valid
    return {"fit": config.fit, "normalise": config.normalise, **skip}


def _read_cache(folder: Path) -> Cache | None:
    """As read_cache(), or None where the folder is absent or is not what its manifest says."""
    try:
        return read_cache(folder) if folder.is_dir() else None
    except ValueError:
        return None


def _build(folder: Path, prepare: Callable[[Path], dict[str, Any]]) -> None:
    """Write the cache in one step; what killed conversions left beside it is removed."""
    if folder.parent.is_dir():
        remove_leftovers(folder.parent.iterdir())
    try:
        with atomic_folder(folder) as temporary:
            write_json(temporary / MANIFEST, seal(prepare(temporary)))
            if _read_cache(folder) is not None:
                raise FileExistsError(folder)  # the other twin, started at the same time, was faster
    except OSError:
        if _read_cache(folder) is None:
            raise


def open_dataset(config: DataConfig, image_shape: tuple[int, int, int]) -> Dataset:
    """Prepared images for a model; converted on the first call, memory-mapped from config.cache afterwards.

    Args:
        config: source, preparation, share held out, cache folder.
        image_shape: (H, W, C) of the model.
    Returns:
        A Dataset. An image is held out where the first 64 bits of the SHA-256 of its decoded pixels, as a fraction,
        lie below config.held_out: independent of order, preparation and what else is in the set.
    Raises:
        ValueError: the source or its preparation does not fit; one line that says what to do.
        OSError: the cache cannot be written.
    """
    is_simulated = config.source.startswith("simulate:")
    if not is_simulated and not Path(config.source).exists():
        hint = "see `python -m core.data download --help`"
        raise ValueError(f"data.source = {config.source}: no such file or folder; {hint}")
    source = simulated(config, image_shape) if is_simulated else open_source(config.source, image_shape[2])
    key = {"format": FORMAT, "source": source.identity, "shape": image_shape, **_preparation(config)}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    label = Path(config.source).stem if not is_simulated else config.source.replace(":", "-")
    folder = Path(config.cache) / f"{label}-{image_shape[0]}x{image_shape[1]}-{digest[:16]}"
    cached = _read_cache(folder)
    if cached is None:
        if folder.exists():
            log.warning("%s does not match its manifest; preparing it again", folder)
        try:
            with writing_to(folder.parent, "data.cache (--data.cache FOLDER)"):
                _build(folder, lambda temporary: _convert(source, config, image_shape, temporary))
        except BrokenImageError as error:
            raise ValueError(f"{error}; repair them, or leave them out with data.skip_broken = true") from error
        cached = _read_cache(folder)
    if cached is None:
        raise OSError(f"{folder}: what was just written cannot be read back; check the disk")
    images, arrays, manifest = cached
    if skipped := manifest.get("skipped"):
        log.warning(
            "%s: %d broken images left out, listed in %s", config.source, len(skipped), folder / "manifest.json"
        )
    fractions = arrays["hashes"][:, :8].copy().view(">u8")[:, 0] / 2.0**64
    held_out = np.flatnonzero(fractions < config.held_out)
    train = np.flatnonzero(fractions >= config.held_out)
    if len(train) == 0:
        raise ValueError(f"data.held_out = {config.held_out}: leaves none of {len(images)} images for training")
    labels = arrays.get("labels")
    names = tuple(manifest["class_names"])
    parameters = {
        name.removeprefix("parameter_"): values for name, values in arrays.items() if name.startswith("parameter_")
    }
    histogram = None if labels is None else np.bincount(labels, minlength=len(names)).tolist()
    manifest |= {
        "split": "held out where sha256(decoded pixels)[:8] / 2^64 < held_out",
        "held_out_share": config.held_out,
        "train": len(train),
        "held_out": len(held_out),
        "labels": None if histogram is None else dict(zip(names, histogram, strict=True)),
    }
    return Dataset(images, labels, names, parameters, train, held_out, manifest)
