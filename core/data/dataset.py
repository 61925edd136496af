"""Data sets: prepared images, their split by content, and the images beside them.

Everything random is a pure function of its arguments, so both twins and a resumed run see the same images.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.config import DataConfig, require
from core.data.formats import Image
from core.data.lenses import PRESETS, Parameters, simulator
from core.data.pairs import degraded, open_beside
from core.data.prepare import Preparation, prepared
from core.data.source import Source
from core.data.sources import open_source
from core.spd.chart import Chart

Indices = npt.NDArray[np.int64]


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
        beside: (N, h, w, C') float32, image i beside image i, memory-mapped, read-only; None where there are none.
        chart: of matrices, whose images are whitened coordinates (N, 1, 1, D) in float64; None for images.
    """

    images: npt.NDArray[Any]
    labels: Indices | None
    class_names: tuple[str, ...]
    parameters: dict[str, npt.NDArray[np.float64]]
    train: Indices
    held_out: Indices
    manifest: dict[str, Any]
    beside: npt.NDArray[np.float32] | None = None
    chart: Chart | None = None


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


def _label(path: str) -> str:
    """The beginning of the name of a prepared set's folder."""
    return path.replace(":", "-") if path.startswith("simulate:") else Path(path).stem


def open_images(config: DataConfig, image_shape: tuple[int, int, int]) -> Source:
    """The source of a recipe's images.

    Raises:
        ValueError: it cannot be opened, or its images have another number of channels.
    """
    if config.source.startswith("simulate:"):
        return simulated(config, image_shape)
    if not Path(config.source).exists():
        hint = "see `python -m core.data download --help`"
        raise ValueError(f"data.source = {config.source}: no such file or folder; {hint}")
    return open_source(config.source, image_shape[2])


def open_dataset(config: DataConfig, image_shape: tuple[int, int, int], beside_channels: int = 0) -> Dataset:
    """Prepared images for a model; converted on the first call, memory-mapped from config.cache afterwards.

    Args:
        config: source, preparation, share held out, cache folder, and the images beside.
        image_shape: (H, W, C) of the model.
        beside_channels: channels of the images beside, where config names any; 0 leaves them out.
    Returns:
        A Dataset. An image is held out where the first 64 bits of the SHA-256 of its decoded pixels, as a fraction,
        lie below config.held_out: independent of order, preparation, what else is in the set and what stands beside.
    Raises:
        ValueError: the source or its preparation does not fit; one line that says what to do.
        OSError: the cache cannot be written.
    """
    if config.space == "spd":
        from core.data.matrices import open_matrices  # it imports this module

        return open_matrices(config, image_shape[2])
    source, paired = open_images(config, image_shape), bool(config.beside and beside_channels)
    beside = open_beside(config, source, beside_channels) if paired else None  # before the images are prepared
    how = Preparation(config.fit, config.normalise, config.skip_broken)
    images, arrays, manifest = prepared(source, how, image_shape, config.cache, _label(config.source))
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
    dataset = Dataset(images, labels, names, parameters, train, held_out, manifest)
    if not paired:
        return dataset
    return _with_images_beside(dataset, beside or degraded(config, images, manifest["sha256"]), config, beside_channels)


def _with_images_beside(dataset: Dataset, source: Source, config: DataConfig, channels: int) -> Dataset:
    """The data set with the images of a source beside its own, and what the manifest says of them."""
    how = Preparation(config.beside_fit, config.beside_normalise, beside=True)
    images, _, about = prepared(source, how, (*config.beside_size, channels), config.cache, _label(config.beside))
    keys = ("source", "stored", "shape", "sha256", "min", "max", "preparation", "extremes")
    record = {key: about[key] for key in keys if key in about}
    return dataclasses.replace(dataset, beside=images, manifest={**dataset.manifest, "beside": record})
