"""Features of images: the extractors that there are, reading and checking images, batches, and the file of features.

A twin supplies the extractor: a function from images (B, H, W, C) in [0, 1] to features (B, d) by tap, which raises
MemoryError where the batch does not fit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.config import ExtractorName
from core.data.formats import Image
from core.data.source import Source
from core.exits import RunError
from core.extractors import inception as inception_spec
from core.extractors import inception_input, lens_weights
from core.extractors import lens as lens_spec
from core.files import cache_folder, file_hash, kept_sum, write_npz
from core.reading import free_memory, read_tensors

Extractor = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Facts:
    """What is known of an extractor without its network; `bytes_per_image` is what one image takes in float32."""

    taps: tuple[str, ...]
    default_tap: str
    weights_file: Callable[[], Path]
    """Where its weights are when no file is named: in the repository, or where `fetch` puts them."""
    check: Callable[[Mapping[str, np.ndarray], str], None]
    """Checks the weights: (tensors, file)."""
    bytes_per_image: int
    check_channels: Callable[[int], None]
    """Raises ValueError where it does not take images with this number of channels."""


EXTRACTORS: dict[ExtractorName, Facts] = {
    "lens": Facts(
        ("features", *lens_spec.HEADS),
        "features",
        lambda: lens_weights.FOLDER / lens_weights.WEIGHTS,
        lens_spec.check_lens_weights,
        2 << 20,
        lens_spec.check_channels,
    ),
    "inception": Facts(
        inception_spec.TAPS,
        "2048",
        lambda: cache_folder() / inception_spec.WEIGHTS_FILE,
        inception_spec.check_inception,
        24 << 20,
        inception_input.check_channels,
    ),
}
LARGEST_BATCH = {"cpu": 32, "gpu": 256}
"""Beyond these nothing is gained: Inception on a CPU takes .12 s an image at 8, .13 at 32 and .15 at 64."""


def read_weights(
    name: ExtractorName, path: Path, read_published: Callable[[Path], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The parameters of an extractor, checked.

    Args:
        name: a key of EXTRACTORS.
        path: a safetensors file, or one that was published.
        read_published: a twin's reader of the latter.
    Raises:
        ValueError: no such file, a damaged one, or one of another network.
    """
    if path.suffix != ".safetensors":
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        return read_published(path)
    tensors = read_tensors(path)
    EXTRACTORS[name].check(tensors, str(path))
    return tensors


def default_weights(name: ExtractorName) -> tuple[Path, dict[str, np.ndarray]]:
    """The default file of weights and its content; the lens extractor's must be the weights that were scored.

    Raises:
        ValueError: not fetched yet, or damaged.
    """
    path = EXTRACTORS[name].weights_file()
    if name == "lens":
        return path, lens_weights.read_lens_weights()[0]
    if not path.is_file():
        raise ValueError(f"no weights of {name}: fetch them with python -m torch_impl fetch {name} (or tf_impl)")
    wanted = kept_sum(path)
    if wanted and file_hash(path) != wanted:
        raise ValueError(f"{path}: changed since it was fetched, when its SHA-256 was {wanted}")
    tensors = read_tensors(path)
    EXTRACTORS[name].check(tensors, str(path))
    return path, tensors


def choose_taps(name: ExtractorName, taps: str) -> tuple[str, ...]:
    """The taps of a comma-separated list, the extractor's default one where it is empty.

    Raises:
        ValueError: a tap that the extractor does not have, or one given twice.
    """
    known = EXTRACTORS[name].taps
    chosen = tuple(tap.strip() for tap in taps.split(",")) if taps else (EXTRACTORS[name].default_tap,)
    if not set(chosen) <= set(known) or len(set(chosen)) < len(chosen):
        raise ValueError(f"--taps {taps}: must be some of {', '.join(known)}, each once, with commas between")
    return chosen


def in_unit_range(image: Image, name: str) -> np.ndarray:
    """An image as float32 in [0, 1]: integers divided by their type's maximum, real values as they are.

    Raises:
        ValueError: values outside [0, 1].
    """
    values = image / np.iinfo(image.dtype).max if image.dtype.kind in "iu" else image
    if values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"{name}: values from {values.min():.6g} to {values.max():.6g}; features are taken of images in [0, 1], "
            "prepared in the same way on both sides of a comparison"
        )
    return values.astype(np.float32)


def read_images(source: Source, start: int, stop: int) -> np.ndarray:
    """Images of a source, (stop - start, H, W, C) float32 in [0, 1]."""
    return np.stack([in_unit_range(source.read(index), source.names[index]) for index in range(start, stop)])


def first_batch_size(name: ExtractorName, device: str, dtype: str) -> int:
    """The largest power of two whose images fit into half of the memory that is free, within LARGEST_BATCH.

    Args:
        name: a key of EXTRACTORS.
        device: 'cpu', or the name of a GPU, whose memory is not read; `extract` halves a batch that does not fit.
        dtype: float32 or float64.
    """
    if device != "cpu":
        return LARGEST_BATCH["gpu"]
    images = free_memory() // 2 // (EXTRACTORS[name].bytes_per_image * np.dtype(dtype).itemsize // 4)
    return min(1 << max(images.bit_length() - 1, 0), LARGEST_BATCH["cpu"])


def extract(
    extractor: Extractor,
    read: Callable[[int, int], np.ndarray],
    count: int,
    batch_size: int,
    taps: Sequence[str],
    progress: Callable[[int], object] = lambda images: None,
) -> dict[str, np.ndarray]:
    """Features of many images, batch after batch; the next one is read while the extractor works.

    Args:
        extractor: a twin's.
        read: (start, stop) -> images (stop - start, H, W, C) in [0, 1].
        count: number of images, at least 1.
        batch_size: images at a time; halved where a batch does not fit into memory.
        taps: the features to keep.
        progress: called with the number of images of each batch that is done.
    Returns:
        (count, d) by tap, in the extractor's dtype; the same for any batch size, to rounding.
    Raises:
        RunError: a single image does not fit into memory, or features that are not finite.
    """
    found: dict[str, np.ndarray] = {}
    with ThreadPoolExecutor(1) as reader:
        start, ahead = 0, reader.submit(read, 0, min(batch_size, count))
        while start < count:
            images = ahead.result()
            stop = start + len(images)
            if stop < count:
                ahead = reader.submit(read, stop, min(stop + batch_size, count))
            features, batch_size = _evaluate(extractor, images, batch_size)
            for tap in taps:
                rows = features[tap]
                if not np.isfinite(rows).all():
                    raise RunError(f"images {start} to {stop - 1}: features {tap} are not finite; look at the weights")
                if tap not in found:
                    found[tap] = np.empty((count, rows.shape[1]), rows.dtype)
                found[tap][start:stop] = rows
            start = stop
            progress(len(images))
    return found


def _evaluate(extractor: Extractor, images: np.ndarray, size: int) -> tuple[dict[str, np.ndarray], int]:
    """Features of some images, and the size of a batch that fits into memory."""
    while True:
        try:
            parts = [extractor(images[i : i + size]) for i in range(0, len(images), size)]
            return {tap: np.concatenate([part[tap] for part in parts]) for tap in parts[0]}, size
        except MemoryError as error:
            if size == 1:
                raise RunError(f"a single image of {images.shape[1:]} does not fit into memory") from error
            size = max(min(size, len(images)) // 2, 1)


def write_features(path: Path, features: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Write an .npz, atomically: one (N, d) float32 array a tap, and `manifest`, a JSON text."""
    arrays = {tap: rows.astype(np.float32) for tap, rows in features.items()}
    write_npz(path, {"manifest": np.array(json.dumps(manifest)), **arrays})
