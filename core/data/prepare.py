"""Images prepared for a network: converted once to a folder of the cache, memory-mapped afterwards."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.config import Fit, Normalise
from core.data.cache import ARRAYS, IMAGES, MANIFEST, SUMS, Cache, read_cache, seal
from core.data.formats import describe
from core.data.pixels import AROUND_UNIT, UNIT, fingerprint, fit, scale
from core.data.source import BrokenImageError, Source
from core.files import atomic_folder, file_hash, remove_leftovers, write_json, write_npz, writing_to

log = logging.getLogger(__name__)

FORMAT = 1
"""Raised whenever the same source and preparation would give other pixels."""

_LEVELS = 65535  # the manifest's median is exact to 1 / 65535, which spares a sort of the whole set


@dataclass(frozen=True)
class Preparation:
    """How images are brought to the range and the size that a network takes; see DataConfig."""

    fit: Fit
    normalise: Normalise
    skip_broken: bool = False
    beside: bool = False
    """Whether the images stand beside those that the network draws. They may have values around [0, 1]."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest pixel value."""
        return AROUND_UNIT if self.beside else UNIT

    @property
    def option(self) -> str:
        """The key of a recipe that says how images are fitted, for messages."""
        return "data.beside_fit =" if self.beside else "data.fit ="

    def record(self) -> dict[str, str | bool]:
        """What a manifest says of it. Switches that are off have no key, so that older caches stay valid."""
        switches = {"skip_broken": self.skip_broken, "beside": self.beside}
        return {"fit": self.fit, "normalise": self.normalise, **{key: True for key, on in switches.items() if on}}


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


def _convert(source: Source, how: Preparation, shape: tuple[int, int, int], folder: Path) -> dict[str, Any]:
    """Write the images, the other arrays and the sums of the source's files into a folder; returns the manifest."""
    source, skipped = source.without_broken() if how.skip_broken else (source, [])
    count = len(source.names)
    low, high = _extremes(source) if how.normalise == "dataset" else UNIT
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
            values = scale(image, name, how.normalise, low, high, how.bounds)
            values = fit(values, shape[:2], how.fit, name, how.option, how.bounds)
            stored = np.ascontiguousarray(values, "<f4")
            stream.write(stored.data)
            digest.update(stored.data)
            least, largest = min(least, float(stored.min())), max(largest, float(stored.max()))
            total, squares = total + float(values.sum()), squares + float((values * values).sum())
            levels = np.rint(np.clip(stored.ravel(), *UNIT) * np.float32(_LEVELS)).astype(np.int64)
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
        "preparation": how.record(),
        **({"extremes": [low, high]} if how.normalise == "dataset" else {}),
        "duplicates": count - len(set(hashes)),
        "class_names": list(source.class_names),
        **({"skipped": skipped} if how.skip_broken else {}),
    }


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


def prepared(source: Source, how: Preparation, shape: tuple[int, int, int], cache: str, label: str) -> Cache:
    """The images of a source, prepared on the first call and memory-mapped afterwards.

    Args:
        source: images as they are stored.
        how: how they are prepared.
        shape: (H, W, C) of the prepared images.
        cache: folder of prepared sets.
        label: begins the name of this set's folder there.
    Returns:
        As read_cache() does.
    Raises:
        ValueError: the source or its preparation does not fit; one line that says what to do.
        OSError: the cache cannot be written.
    """
    key = {"format": FORMAT, "source": source.identity, "shape": shape, **how.record()}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    folder = Path(cache) / f"{label}-{shape[0]}x{shape[1]}-{digest[:16]}"
    cached = _read_cache(folder)
    if cached is None:
        if folder.exists():
            log.warning("%s does not match its manifest; preparing it again", folder)
        try:
            with writing_to(folder.parent, "data.cache (--data.cache FOLDER)"):
                _build(folder, lambda temporary: _convert(source, how, shape, temporary))
        except BrokenImageError as error:
            leave_out = "" if how.beside else ", or leave them out with data.skip_broken = true"
            raise ValueError(f"{error}; repair them{leave_out}") from error
        cached = _read_cache(folder)
    if cached is None:
        raise OSError(f"{folder}: what was just written cannot be read back; check the disk")
    if skipped := cached[2].get("skipped"):
        log.warning("%s: %d broken images left out, listed in %s", label, len(skipped), folder / MANIFEST)
    return cached
