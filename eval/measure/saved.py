"""Features and statistics that someone saved: .npz files with `features`, or with `mu` and `sigma`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from core.arrays import read_npz
from core.metrics.moments import check_features
from core.reading import reading
from eval.measure.request import DistanceRequest

Features = npt.NDArray[Any]
Moments = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Mean (d,) and covariance (d, d) of features."""

INCEPTION_FEATURES = 2048
NETWORK = ("name", "resize", "weights_sha256")
"""What a file may say of the network that made its features; two files that name another one do not compare."""


class Saved(NamedTuple):
    """The content of such a file; either features or statistics."""

    features: Features | None
    statistics: Moments | None
    about: dict[str, Any]
    """What the file says of itself. `extractor` has keys of NETWORK."""


def read_saved(path: Path) -> Saved | None:
    """Saved features or statistics, or None where the path is something else.

    Args:
        path: an .npz file with `features` (N, d), N >= 2, and perhaps `manifest`, a JSON text; or one with `mu` (d,),
            `sigma` (d, d) and perhaps `about`, a JSON text.
    Raises:
        ValueError: damaged, pickled, of another shape, or numbers that are not finite; the message names the file.
    """
    if path.suffix != ".npz" or not path.is_file():
        return None
    names = _names(path)
    if "features.npy" in names:
        return _read_features(path)
    return _read_statistics(path) if {"mu.npy", "sigma.npy"} <= names else None


def _names(path: Path) -> set[str]:
    with reading(path, "a whole .npz file of plain arrays"), zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def check_given(request: DistanceRequest) -> bool:
    """Whether a side is a file of features. Then every side must be saved, and options of images are refused.

    Raises:
        ValueError: images beside features, or such an option.
    """
    sides = [side for side in (request.real, request.generated, request.train) if side]
    files = [side for side in sides if side.endswith(".npz") and Path(side).is_file()]
    given = [side for side in files if "features.npy" in _names(Path(side))]
    if not given:
        return False
    for side in sides:
        if side not in given and not (side in files and {"mu.npy", "sigma.npy"} <= _names(Path(side))):
            what = "holds no features" if Path(side).exists() else "no such file"
            raise ValueError(f"{side}: {what}: must be an .npz file with features, as {given[0]} is")
    plain = DistanceRequest(real=request.real, generated=request.generated)
    for name in ("extractor", "resize", "weights", "fit", "eight_bit"):
        if getattr(request, name) != getattr(plain, name):
            raise ValueError(f"--{name.replace('_', '-')}: must be left out, since {given[0]} holds features")
    return True


def _text(path: Path, arrays: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The JSON object of a text in the file; empty where there is none."""
    values = json.loads(str(arrays[name])) if name in arrays else {}
    json.dumps(values, allow_nan=False)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: {name} holds no JSON object; save the file again")
    return values


def _read_features(path: Path) -> Saved:
    with reading(path, "a file of features"):
        arrays = read_npz(path)
        rows = check_features(arrays["features"], f"{path}: features", least=2)
        said = _text(path, arrays, "manifest")
    samples = said.pop("samples", None)  # the manifest of drawn images, which `features` copies
    network = {"name": said.pop("extractor", None), **{key: said.pop(key, None) for key in NETWORK[1:]}}
    for key, value in network.items():
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{path}: manifest: {key} is {value!r}: must be a text; save the file again")
    about = {**(samples if isinstance(samples, dict) else {}), **said}
    return Saved(rows, None, {**about, "extractor": network} if network["name"] else about)


def _read_statistics(path: Path) -> Saved:
    with reading(path, "saved statistics"):
        arrays = read_npz(path)
        mu, sigma = arrays["mu"], arrays["sigma"]
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or not len(mu):
            raise ValueError(f"{path}: mu {mu.shape} and sigma {sigma.shape}: must be (d,) and (d, d)")
        for name, values in (("mu", mu), ("sigma", sigma)):
            if values.dtype.kind != "f" or not np.isfinite(values).all():
                raise ValueError(f"{path}: {name} is of {values.dtype}: must be finite numbers of floating point")
        if not np.allclose(sigma, sigma.T, rtol=1e-3) or (np.diag(sigma) < 0).any():
            raise ValueError(f"{path}: sigma is no covariance: must be symmetric, its diagonal at least 0")
        about = _text(path, arrays, "about")
    return Saved(None, (mu.astype(np.float64), sigma.astype(np.float64)), about)


def check_statistics(path: str, extractor: str, resize: str) -> None:
    """Refuse saved statistics of another extractor; other files are not looked at.

    Args:
        path: a side of the comparison.
        extractor, resize: name of the extractor that will take the features, and how it resizes.
    Raises:
        ValueError: the message names both extractors.
    """
    found = read_saved(Path(path))
    if found is None or found.statistics is None:
        return
    said = found.about.get("extractor")
    said = said if isinstance(said, dict) else {}
    width = len(found.statistics[0])
    name = said.get("name", "inception" if width == INCEPTION_FEATURES else extractor)  # others' files name nothing
    if name != extractor:
        raise ValueError(
            f"{path}: statistics of {width} features of {name}, not of {extractor}: give --extractor {name}"
        )
    if said.get("resize", resize) != resize:
        raise ValueError(f"{path}: statistics with --resize {said['resize']}, not {resize}: give the same")
