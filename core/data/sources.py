"""Images as they lie on disk: folders and zips of images, single images, stacks (.npy, .npz) and IDX files.

Images are read one at a time. Nothing is scaled here, and no pickle is loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from core.data.formats import AGAIN, FORMATS, Image, decode, describe, npy_header, read_idx, to_hwc
from core.files import file_hash
from core.reading import map_npy, open_zip, read_member, read_npz, reading

SPLITS = ("train", "val", "valid", "validation", "test")
"""Folders that are no class: this project draws its own split."""

SHOWN = 8
"""Names of broken images in a message."""

TRIED = 20
"""Images that are tried at the start of a folder, where the first ones are broken."""

MAX_CLASSES = 2**16
MAX_FILE = 2**28
"""Bytes of the largest file of one image."""

IDX_NAME = re.compile(r"(idx\d*|-ubyte)(\.gz)?$")


@dataclass(frozen=True)
class Source:
    """A list of images of one shape and dtype, read one at a time.

    Attributes:
        names: one an image, for messages.
        shape, dtype: (H, W, C) and dtype of every image, as stored.
        fetch: index -> array (H, W, C), unchecked; use `read`.
        labels: (N,) int64 in [0, K), or None.
        class_names: K names, in the order of the labels.
        parameters: name -> (N,) float64, such as a simulation's true parameters.
        identity: JSON values that change when the sizes, times or checksums of the files do.
        files: names of the files in the folder or zip, or of the file itself; empty for the simulator.
        file_sum: name -> SHA-256 of the file's bytes, in hexadecimal; None where it cannot be read.
    """

    names: Sequence[str]
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    fetch: Callable[[int], Image]
    labels: npt.NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    parameters: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    file_sum: Callable[[str], str | None] = lambda name: None

    def read(self, index: int) -> Image:
        """Image (H, W, C) of the stored dtype.

        Raises:
            BrokenImageError: it cannot be decoded, is not finite or is not like the first; all such images are named.
        """
        try:
            return self._whole(index)
        except ValueError as error:
            raise BrokenImageError(_listed(error, [self.names[i] for i in self.broken()])) from error

    def broken(self) -> dict[int, str]:
        """What is wrong with each image that cannot be read, by its index. Every image is read."""
        from tqdm import tqdm

        found = {}
        for index in tqdm(range(len(self.names)), desc="Looking for broken images", unit="image", leave=False):
            try:
                self._whole(index)
            except ValueError as error:
                found[index] = str(error)
        return found

    def without(self, broken: Mapping[int, str]) -> Source:
        """The source without some images, such as those of broken()."""
        kept = [index for index in range(len(self.names)) if index not in broken]
        return dataclasses.replace(
            self,
            names=[self.names[index] for index in kept],
            fetch=lambda index: self.fetch(kept[index]),
            labels=None if self.labels is None else self.labels[kept],
            parameters={name: values[kept] for name, values in self.parameters.items()},
        )

    def _whole(self, index: int) -> Image:
        """An image, checked; ValueError names it."""
        name = self.names[index]
        with reading(name, "an image", AGAIN):
            image = self.fetch(index)
        if image.shape != self.shape or image.dtype != self.dtype:
            raise ValueError(
                f"{name}: {describe(image.shape, image.dtype)} where {self.names[0]} is "
                f"{describe(self.shape, self.dtype)}; all images must be alike: convert or remove it"
            )
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            bad = int(image.size - np.isfinite(image).sum())
            raise ValueError(f"{name}: {bad} of {image.size} values are not finite; repair or remove the file")
        return image


class BrokenImageError(ValueError):
    """Images of a source that cannot be read. The message says what is wrong with one and names the others."""


def _listed(error: ValueError, names: Sequence[str]) -> str:
    """The message of one image's error, with the names of all broken images where there are more."""
    if len(names) < 2:
        return str(error)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{error}; {len(names)} images are broken: {', '.join(names[:SHOWN])}{rest}"


def _first(fetch: Callable[[int], Image], count: int) -> Image:
    """The first image that can be decoded, which the others must be like; raises for the first where few can."""
    for index in range(min(count, TRIED)):
        with contextlib.suppress(ValueError):
            return fetch(index)
    return fetch(0)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """sample2 before sample10; digits and text never compared with each other."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def _class_labels(where: Path, names: Sequence[str]) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]:
    """Labels from folders: those between the deepest folder common to all files and the file, splits left out."""
    parents = [tuple(p for p in PurePosixPath(name).parent.parts if p.lower() not in SPLITS) for name in names]
    depth = len(list(itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parents, strict=False))))
    classes = ["/".join(parent[depth:]) for parent in parents]
    class_names = tuple(sorted(set(classes), key=_natural))
    if len(class_names) == 1:
        return None, ()
    if "" in class_names:
        name = names[classes.index("")]
        raise ValueError(
            f"{where}/{name}: lies beside class folders; put every image into a folder of its class, or none"
        )
    positions = {name: label for label, name in enumerate(class_names)}
    return np.array([positions[c] for c in classes], np.int64), class_names


def _files(where: Path, entries: dict[str, list[int]], load: Callable[[str], bytes], channels: int | None) -> Source:
    """A source over many small files, in a folder or a zip; entries are names with what identifies their content."""
    names, suffixes = [], set()
    for name in entries:
        parts = PurePosixPath(name).parts
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        suffix = PurePosixPath(name).suffix.lower()
        suffixes.add(suffix or "no suffix")
        if suffix in FORMATS:
            names.append(name)
    kinds = {FORMATS[PurePosixPath(name).suffix.lower()] for name in names}
    if len(kinds) > 1:
        held = sorted({PurePosixPath(name).suffix.lower() for name in names})
        raise ValueError(f"{where}: holds images of several kinds ({', '.join(held)}); keep one kind")
    if not names:
        found = f" (found: {', '.join(sorted(suffixes))})" if suffixes else ""
        raise ValueError(f"{where}: no images{found}; it must hold files that end in one of {', '.join(FORMATS)}")
    names.sort(key=_natural)
    sums: dict[str, str] = {}

    def load_and_hash(name: str) -> bytes:
        if entries[name][0] > MAX_FILE:
            raise ValueError(f"{where}/{name}: {entries[name][0]} bytes; must be at most {MAX_FILE}")
        data = load(name)
        sums[name] = hashlib.sha256(data).hexdigest()
        return data

    def fetch(index: int) -> Image:
        return decode(load_and_hash(names[index]), f"{where}/{names[index]}", channels)

    def file_sum(name: str) -> str | None:
        with contextlib.suppress(OSError, ValueError):
            if name not in sums:
                load_and_hash(name)
        return sums.get(name)

    first = _first(fetch, len(names))
    labels, class_names = _class_labels(where, names)
    listing = json.dumps([[name, *entries[name]] for name in names]).encode()
    identity = {"path": str(where.resolve()), "files": len(names), "listing": hashlib.sha256(listing).hexdigest()}
    shown = [f"{where}/{name}" for name in names]
    return Source(shown, first.shape, first.dtype, fetch, labels, class_names, {}, identity, names, file_sum)


def _open_folder(path: Path, channels: int | None) -> Source:
    entries: dict[str, list[int]] = {}
    for folder, _, files in os.walk(path):
        for file in files:
            full = Path(folder, file)
            if not full.is_file():
                raise ValueError(f"{full}: a broken link; repair or remove it")
            stat = full.stat()
            entries[full.relative_to(path).as_posix()] = [stat.st_size, stat.st_mtime_ns]
    return _files(path, entries, lambda name: (path / name).read_bytes(), channels)


def _open_zip(path: Path, channels: int | None) -> Source:
    advice = "download it again, or unpack it and give the folder"
    with reading(path, "a whole zip", advice):
        archive = open_zip(path)
    infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    if len(infos) < sum(not info.is_dir() for info in archive.infolist()):
        raise ValueError(f"{path}: holds two files of one name; {advice}")

    for info in archive.infolist():  # a name stands twice in a zip; damaged, it could pass for no image
        if PurePosixPath(info.filename).suffix.lower() not in FORMATS:
            with reading(f"{path}/{info.filename}", "a whole file inside the zip", advice), archive.open(info):
                pass

    def load(name: str) -> bytes:
        where, info = f"{path}/{name}", infos[name]
        with reading(where, "a whole file inside the zip", advice):
            if name.lower().endswith(".npy") and info.file_size >= 2**24:  # refused before it is unpacked
                with archive.open(info) as stream:
                    npy_header(stream, info.file_size, where)
            return read_member(archive, info)

    return _files(path, {name: [info.file_size, info.CRC] for name, info in infos.items()}, load, channels)


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


def _open_single(path: Path, channels: int | None) -> Source:
    """A source over a file that holds one image."""
    if path.stat().st_size > MAX_FILE:
        raise ValueError(f"{path}: {path.stat().st_size} bytes; must be at most {MAX_FILE}")
    data = path.read_bytes()
    image = decode(data, str(path), channels)
    found = hashlib.sha256(data).hexdigest()
    identity = {"path": str(path.resolve()), "sha256": found}
    return Source(
        [str(path)],
        image.shape,
        image.dtype,
        lambda index: image,
        identity=identity,
        files=[path.name],
        file_sum=lambda name: found,
    )


def _open_npy(path: Path, channels: int | None) -> Source:
    with open(path, "rb") as stream:
        npy_header(stream, path.stat().st_size, str(path))
    return _stack(path, map_npy(path), None, channels)


def _open_npz(path: Path, channels: int | None) -> Source:
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


def _open_idx(path: Path, channels: int | None) -> Source:
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


def _open(path: Path, channels: int | None) -> Source:
    """A source of what a path names."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return _open_folder(path, channels)
    if suffix in (".npy", ".npz", ".zip"):
        return {".npy": _open_npy, ".npz": _open_npz, ".zip": _open_zip}[suffix](path, channels)
    if IDX_NAME.search(path.name):
        return _open_idx(path, channels)
    if suffix in FORMATS:
        return _open_single(path, channels)
    allowed = f".zip, .npz, {', '.join(FORMATS)} or IDX (…-idx3-ubyte[.gz])"
    raise ValueError(f"{path}: unknown kind of file; must be a folder, {allowed}")


def open_source(path: str | Path, channels: int | None = None) -> Source:
    """Open a folder or zip of images, one image, a .npy or .npz stack of images, or an IDX file (plain or .gz).

    Args:
        path: the folder or file; of a folder that `sample` wrote, its samples.npy. Hidden files and __MACOSX are
            skipped, files of other kinds are passed over, names are sorted naturally, class folders become labels
            (train, val and test folders do not).
        channels: expected channels, which also resolves layouts; None where not known.
    Returns:
        A Source; its images are decoded and checked one by one by `read`.
    Raises:
        ValueError: one line that names the file and what to do.
    """
    path = Path(path)
    with reading(path, "images", AGAIN):
        if (path / "samples.npy").is_file() and (path / "manifest.json").is_file():
            path = path / "samples.npy"
        if not path.exists():
            raise ValueError(f"{path}: no such file or folder")
        source = _open(path, channels)
    if channels is not None and source.shape[2] != channels:
        raise ValueError(
            f"{source.names[0]}: {source.shape[2]} channels where the network takes {channels}; convert the images, or "
            f"train a network with model.in_channels and model.out_channels {source.shape[2]}"
        )
    return source
