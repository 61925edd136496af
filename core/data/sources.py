"""Images as they lie on disk: folders and zips of images, single images, stacks (.npy, .npz) and IDX files.

Images are read one at a time. Nothing is scaled here, and no pickle is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from core.arrays import open_zip, read_member
from core.data.formats import AGAIN, FORMATS, Image, decode, npy_header
from core.data.source import Source
from core.data.stacks import IDX_NAME, open_idx, open_npy, open_npz
from core.reading import reading

SPLITS = ("train", "val", "valid", "validation", "test")
"""Folders that are no class: this project draws its own split."""


TRIED = 20
"""Images that are tried at the start of a folder, where the first ones are broken."""

CHANNELS = "model.in_channels and model.out_channels"

MAX_FILE = 2**28
"""Bytes of the largest file of one image."""


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
    return Source(shown, first.shape, first.dtype, fetch, labels, class_names, {}, identity, names, file_sum, True)


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


def _open(path: Path, channels: int | None) -> Source:
    """A source of what a path names."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return _open_folder(path, channels)
    if suffix in (".npy", ".npz", ".zip"):
        return {".npy": open_npy, ".npz": open_npz, ".zip": _open_zip}[suffix](path, channels)
    if IDX_NAME.search(path.name):
        return open_idx(path, channels)
    if suffix in FORMATS:
        return _open_single(path, channels)
    allowed = f".zip, .npz, {', '.join(FORMATS)} or IDX (…-idx3-ubyte[.gz])"
    raise ValueError(f"{path}: unknown kind of file; must be a folder, {allowed}")


def open_source(path: str | Path, channels: int | None = None, keys: str = CHANNELS) -> Source:
    """Open a folder or zip of images, one image, a .npy or .npz stack of images, or an IDX file (plain or .gz).

    Args:
        path: the folder or file; of a folder that `sample` wrote, its samples.npy. Hidden files and __MACOSX are
            skipped, files of other kinds are passed over, names are sorted naturally, class folders become labels
            (train, val and test folders do not).
        channels: expected channels, which also resolves layouts; None where not known.
        keys: the keys of a recipe that set the channels, for messages.
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
            f"train a network with {keys} {source.shape[2]}"
        )
    return source
