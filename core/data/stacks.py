"""Files that hold many images: .npy and .npz stacks, and IDX files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.arrays import map_npy, read_npz
from core.data.formats import Image, npy_header, read_idx, to_hwc
from core.data.source import Source
from core.files import file_hash

MAX_CLASSES = 2**16


IDX_NAME = re.compile(r"(idx\d*|-ubyte)(\.gz)?$")


def _stack(
    path: Path, images: Image, labels: Image | None, channels: int | None, named: Sequence[str] | None = None
) -> Source:
    """A source over one array (N, H, W), (N, H, W, C) or (N, C, H, W)."""
    if images.ndim not in (3, 4) or len(images) == 0:
        raise ValueError(
            f"{path}: shape {images.shape}; a file of images must be (N, H, W), (N, H, W, C), (N, C, H, W)"
        )
    count, height, width = images.shape[:3]
    if images.ndim == 3 and (width <= 4 < height or count == height >= 2 * width):
        raise ValueError(
            f"{path}: shape {images.shape} looks like one picture; add a first axis of 1, or a last one for grey images"
        )
    if labels is not None:
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or labels.min() < 0:
            raise ValueError(f"{path}: labels {labels.shape} {labels.dtype}; must be {len(images)} integers from 0")
        labels = labels.astype(np.int64)
        classes = int(labels.max()) + 1
        if classes > MAX_CLASSES:
            raise ValueError(f"{path}: labels up to {classes - 1}; must be below {MAX_CLASSES}")
        if named is not None and len(named) < classes:
            raise ValueError(f"{path}: {len(named)} class_names for labels up to {classes - 1}; name every class")
        named = tuple(named) if named is not None else tuple(str(label) for label in range(classes))

    def fetch(index: int) -> Image:
        image = to_hwc(images[index], f"{path}[{index}]", channels)
        return np.ascontiguousarray(image, image.dtype.newbyteorder("="))

    first = fetch(0)
    stat = path.stat()
    identity = {"path": str(path.resolve()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    names = [f"{path}[{index}]" for index in range(len(images))]
    return Source(
        names,
        first.shape,
        first.dtype,
        fetch,
        labels,
        tuple(named or ()),
        identity=identity,
        files=[path.name],
        file_sum=lambda name: file_hash(path.with_name(name)),
    )


def open_npy(path: Path, channels: int | None) -> Source:
    with open(path, "rb") as stream:
        npy_header(stream, path.stat().st_size, str(path))
    return _stack(path, map_npy(path), None, channels)


def open_npz(path: Path, channels: int | None) -> Source:
    """Keys images (or arr_0), labels (or arr_1), class_names; other (N,) arrays of numbers are parameters."""
    arrays = read_npz(path)
    images = arrays.pop("images", arrays.pop("arr_0", None))
    if images is None:
        raise ValueError(f"{path}: holds {', '.join(arrays) or 'nothing'}; must hold an array named images or arr_0")
    labels = arrays.pop("labels", arrays.pop("arr_1", None))
    named = arrays.pop("class_names", None)
    if named is not None and (named.ndim != 1 or named.dtype.kind not in "US"):
        raise ValueError(f"{path}: class_names is {named.shape} {named.dtype}; must be a list of texts")
    source = _stack(path, images, labels, channels, None if named is None else [str(name) for name in named])
    for key, values in arrays.items():
        if values.shape != (len(images),) or values.dtype.kind not in "buif":
            raise ValueError(
                f"{path}: {key} is {values.shape} {values.dtype}; must be {len(images)} numbers, or left out"
            )
        source.parameters[key] = values.astype(np.float64)
    return source


def open_idx(path: Path, channels: int | None) -> Source:
    labels_file = None
    if "images-idx3" in path.name:
        sibling = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
        candidates = [sibling, sibling.with_suffix("") if sibling.suffix == ".gz" else Path(f"{sibling}.gz")]
        labels_file = next((candidate for candidate in candidates if candidate.is_file()), None)
    source = _stack(path, read_idx(path), read_idx(labels_file) if labels_file else None, channels)
    if labels_file:
        stat = labels_file.stat()
        source.identity["labels"] = [stat.st_size, stat.st_mtime_ns]
        source.files.append(labels_file.name)
    return source
