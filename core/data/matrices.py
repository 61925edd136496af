"""Prepared positive definite matrices: their whitened coordinates as images of one pixel, and the chart.

The chart is fitted to the training matrices alone, once. Both twins read it from the cache, so that they work with the
same bits.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.config import DataConfig
from core.data.dataset import Dataset
from core.files import atomic_folder, file_hash, write_json, write_tensors, writing_to
from core.reading import read_json, read_tensors, reading
from core.spd.chart import Chart, coordinates, fit_chart, size_of
from core.spd.laws import law_of, simulate_spd
from core.spd.matrices import Matrices, matrix_file, read_matrices

FORMAT = 1
"""Raised whenever the same source would give other coordinates."""
TENSORS, MANIFEST = "matrices.safetensors", "manifest.json"
HELD_OUT = "held_out"
"""A covariate of this name, 0 or 1, decides which matrices are held out."""
Arrays = dict[str, npt.NDArray[Any]]


def open_matrices(config: DataConfig, coordinates_of_model: int) -> Dataset:
    """Prepared matrices for a model.

    Args:
        config: source, share held out, kind of whitening, cache folder.
        coordinates_of_model: model.in_channels, D = m (m + 1) / 2.
    Returns:
        A Dataset whose images are whitened coordinates (N, 1, 1, D) in float64, with its chart. A matrix is held out by
        the hash of its numbers, as an image is by that of its pixels. An array `held_out` of the .npz file decides in
        its place.
    Raises:
        ValueError: the source does not fit; one line that says what to do. OSError: the cache cannot be written.
    """
    m = size_of(coordinates_of_model)
    identity = _identity(config, m)
    key = {"format": FORMAT, "source": identity, "held_out": config.held_out, "whiten": config.whiten}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    label = config.source.replace(":", "-") if _simulated(config) else Path(config.source).stem
    folder = Path(config.cache) / f"{label}-spd{m}-{digest[:16]}"
    cached = _read(folder)
    if cached is None:
        with writing_to(folder.parent, "data.cache (--data.cache FOLDER)"):
            arrays, names = _prepare(config, m)
            _write(folder, arrays, {"format": FORMAT, "source": identity, "class_names": names})
        cached = _read(folder)
    if cached is None:
        raise OSError(f"{folder}: what was just written cannot be read back; check the disk")
    return _dataset(config, *cached)


def _simulated(config: DataConfig) -> bool:
    return config.source.startswith("simulate:")


def _identity(config: DataConfig, m: int) -> dict[str, Any]:
    """What changes when the matrices do."""
    if _simulated(config):
        law_of(config.source)
        count, seed = config.simulate_count, config.simulate_seed
        return {"path": config.source, "count": count, "seed": seed, "m": m}
    path = matrix_file(config.source)
    stat = path.stat()
    return {"path": str(path.resolve()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _load(config: DataConfig, m: int) -> Matrices:
    """The matrices of the source.

    Raises:
        ValueError: matrices of another size, or a matrix that is not positive definite.
    """
    if _simulated(config):
        drawn = simulate_spd(law_of(config.source), config.simulate_count, config.simulate_seed, m)
        return Matrices(drawn.values, parameters=drawn.parameters)
    found = read_matrices(config.source)
    size = found.values.shape[1]
    if size != m:
        raise ValueError(
            f"{config.source}: matrices of {size} x {size}: model.in_channels and model.out_channels must be "
            f"{size * (size + 1) // 2}, not {m * (m + 1) // 2}"
        )
    return found


def _prepare(config: DataConfig, m: int) -> tuple[Arrays, list[str]]:
    """The arrays of the cache by name, and the names of the classes."""
    found = _load(config, m)
    parameters = dict(found.parameters)
    hashes = [hashlib.sha256(np.ascontiguousarray(matrix, "<f8").data).digest() for matrix in found.values]
    heads = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)[:, :8].copy()
    held_out = heads.view(">u8")[:, 0] / 2.0**64 < config.held_out
    if HELD_OUT in parameters:
        held_out = parameters.pop(HELD_OUT) != 0
    train = np.flatnonzero(~held_out)
    if len(train) == 0:
        raise ValueError(f"data.held_out = {config.held_out}: leaves none of {len(held_out)} matrices for training")
    z = coordinates(found.values)
    try:
        chart = fit_chart(z[train], config.whiten)
    except ValueError as error:
        raise ValueError(f"{config.source}: data.{error}") from error
    arrays: Arrays = {"v": chart.whitened(z)[:, None, None, :], "held_out": held_out.astype(np.uint8)}
    arrays |= {"mean": chart.mean, "whiten": chart.whiten, "unwhiten": chart.unwhiten}
    arrays |= {f"parameter_{name}": values for name, values in parameters.items()}
    if found.labels is not None:
        arrays["labels"] = found.labels
    return arrays, list(found.class_names)


def _write(folder: Path, arrays: Arrays, about: dict[str, Any]) -> None:
    """Write the cache in one step; another process may have been faster."""
    try:
        with atomic_folder(folder) as temporary:
            write_tensors(temporary / TENSORS, arrays)
            write_json(temporary / MANIFEST, {**about, "sha256": file_hash(temporary / TENSORS)})
            if _read(folder) is not None:
                raise FileExistsError(folder)
    except OSError:
        if _read(folder) is None:
            raise


def _read(folder: Path) -> tuple[Arrays, dict[str, Any]] | None:
    """The arrays and the manifest; None where the folder is absent or is not what its manifest says."""
    try:
        manifest = read_json(folder / MANIFEST, {"format": int, "sha256": str, "source": dict, "class_names": list})
        with reading(folder / TENSORS, "the file that was prepared"):
            whole = file_hash(folder / TENSORS) == manifest["sha256"]
        return (read_tensors(folder / TENSORS), manifest) if whole else None
    except ValueError:
        return None


def _dataset(config: DataConfig, arrays: Arrays, manifest: dict[str, Any]) -> Dataset:
    """The data set of a cache."""
    chart = Chart(config.whiten, arrays["mean"], arrays["whiten"], arrays["unwhiten"])
    held_out = arrays["held_out"] != 0
    parameters = {
        name.removeprefix("parameter_"): values for name, values in arrays.items() if name.startswith("parameter_")
    }
    record = {
        **manifest,
        "count": len(held_out),
        "shape": list(arrays["v"].shape[1:]),
        "dtype": "float64",
        "space": "spd",
        "m": chart.m,
        "whiten": config.whiten,
        "held_out_share": config.held_out,
        "train": int((~held_out).sum()),
        "held_out": int(held_out.sum()),
    }
    train, other = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    names = tuple(manifest["class_names"])
    return Dataset(arrays["v"], arrays.get("labels"), names, parameters, train, other, record, chart=chart)
