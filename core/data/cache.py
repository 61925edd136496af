"""A prepared set on disk: read back, and verified with the source that it was made from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.arrays import read_npz
from core.data.sources import open_source
from core.files import file_hash
from core.reading import read_json, reading

IMAGES, ARRAYS, MANIFEST = "images.npy", "arrays.npz", "manifest.json"

SUMS = "source_sums.json"
"""SHA-256 of every file of the source, by its name there, as it was read when the set was prepared."""

Cache = tuple[npt.NDArray[np.float32], dict[str, npt.NDArray[Any]], dict[str, Any]]

Bar = Callable[[Iterable[Any]], Iterable[Any]]

_FOLDER = re.compile(r"[^.].*-\d+x\d+-[0-9a-f]{16}")
_AGAIN = "the next training prepares it again"


def seal(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest with the SHA-256 of all its other entries."""
    entries = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return {**entries, "manifest_sha256": hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()}


def read_cache(folder: Path, bar: Bar = iter) -> Cache:
    """Images, memory-mapped and read-only, other arrays by name, and the manifest; all are checked to the last byte.

    Args:
        folder: a prepared set.
        bar: wraps what is iterated over, to show progress.
    Raises:
        ValueError: a file is missing or is not what the manifest says; the message names it.
    """
    manifest = read_json(folder / MANIFEST)
    with reading(folder / MANIFEST, "the manifest that was written", _AGAIN):
        if _has_sums(folder, manifest) and seal(manifest) != manifest:
            raise ValueError("its content differs from its own sum")
        manifest.pop("manifest_sha256", None)
        wanted = (tuple(manifest["shape"]), int(manifest["count"]), "<f4", str(manifest["sha256"]))
        arrays_sum = str(manifest["arrays_sha256"])
    with reading(folder / IMAGES, "the images that were prepared", _AGAIN):
        images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
        digest = hashlib.sha256()
        for index in bar(range(0, len(images), 256)):
            digest.update(np.ascontiguousarray(images[index : index + 256]).data)
        if (images.shape[1:], len(images), images.dtype.str, digest.hexdigest()) != wanted:
            raise ValueError(f"its content differs from what {MANIFEST} says")
    _check_sum(folder / ARRAYS, arrays_sum)
    return images, read_npz(folder / ARRAYS), manifest


def _has_sums(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the set was prepared by a version that kept the sums of the source's files."""
    return "source_sums_sha256" in manifest or (folder / SUMS).exists()


def _check_sum(path: Path, wanted: str) -> None:
    with reading(path, "the file that was prepared", _AGAIN):
        if file_hash(path) != wanted:
            raise ValueError(f"its content differs from what {MANIFEST} says")


def verify(cache: Path, source: str = "", bar: Bar = iter) -> Iterator[tuple[bool, str]]:
    """Check prepared sets, and their sources against the sums of when they were prepared.

    Args:
        cache: folder of prepared sets.
        source: only the sets that were made from it; all where empty.
        bar: wraps what is iterated over, to show progress.
    Returns:
        For each set, each source and each file that differs: whether it is as it was, and a line that names it.
    Raises:
        ValueError: there is no such set.
    """
    folders = sorted(path for path in cache.glob("*") if _FOLDER.fullmatch(path.name) and path.is_dir())
    chosen = [folder for folder in folders if not source or _made_from(folder, source)]
    if not chosen:
        of = f" of {source}" if source else ""
        raise ValueError(f"{cache}: holds no prepared set{of}; a training prepares one")
    for folder in chosen:
        try:
            images, _, manifest = read_cache(folder, bar)
            if _has_sums(folder, manifest):
                _check_sum(folder / SUMS, manifest["source_sums_sha256"])
        except ValueError as error:
            yield False, str(error)
            continue
        yield True, f"{folder}: whole, {len(images)} images"
        yield from _verify_source(folder, manifest, bar)


def _made_from(folder: Path, source: str) -> bool:
    """Whether a prepared set names the source; one whose manifest cannot be read may be of any."""
    where = Path(source)
    paths = {source, str(where.resolve()), str((where / "samples.npy").resolve())}
    try:
        return read_json(folder / MANIFEST)["source"]["path"] in paths
    except (ValueError, KeyError, TypeError):
        return folder.name.startswith(f"{where.stem}-")


def _verify_source(folder: Path, manifest: dict[str, Any], bar: Bar) -> Iterator[tuple[bool, str]]:
    """As verify(), for the source of a whole set."""
    path = manifest["source"]["path"]
    if path.startswith("simulate:"):
        yield True, f"{path}: simulated, no files"
        return
    if not _has_sums(folder, manifest):
        yield True, f"{path}: no sums are known, since {folder.name} was prepared by an earlier version; not checked"
        return
    recorded = read_json(folder / SUMS)
    try:
        found = open_source(path, manifest["shape"][2])
        sums = {name: found.file_sum(name) for name in bar(found.files)}
    except (OSError, ValueError) as error:
        yield False, str(error)
        return
    where = Path(path) if Path(path).is_dir() or path.lower().endswith(".zip") else Path(path).parent
    unseen = found.identity == manifest["source"]
    for name in sorted(recorded.keys() | sums.keys()):
        if name not in sums:
            yield False, f"{where / name}: is missing since {folder.name} was prepared"
        elif name not in recorded:
            yield False, f"{where / name}: is new since {folder.name} was prepared"
        elif sums[name] != recorded[name]:
            same = ", with the same size and time" if unseen else ""
            yield False, f"{where / name}: changed{same} since {folder.name} was prepared"
    if sums == recorded:
        yield True, f"{path}: {len(sums)} files as they were when {folder.name} was prepared"
