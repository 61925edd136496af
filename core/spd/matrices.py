"""Given matrices: read from .npy and .npz files, and checked one by one. No pickle is loaded."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.arrays import read_npy, read_npz

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]

ASYMMETRY = 1e-8
"""Largest asymmetry, as a share of the matrix's norm, that counts as rounding."""
SPREAD = 32.0
"""Largest difference between log-eigenvalues of a matrix. At 38, a quarter of such matrices of float64 have a computed
eigenvalue of 0 or below, and no such matrix of float32 is exact enough."""
SHRINK = "shrink it before, such as 0.99 X + 0.01 trace(X) / m I, or remove it"


@dataclass(frozen=True)
class Matrices:
    """Matrices of a file, checked.

    Attributes:
        values: (N, m, m) float64, symmetric positive definite.
        labels: (N,) int64 from 0, or None.
        class_names: one name a label.
        parameters: name -> (N,) float64, the covariates.
    """

    values: Array
    labels: npt.NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    parameters: dict[str, Array] = field(default_factory=dict)


def check_symmetric(values: npt.NDArray[Any], name: str) -> Array:
    """Symmetric matrices in float64; asymmetry from rounding is removed, with a warning.

    Args:
        values: as read from a file.
        name: its name, for messages.
    Returns:
        (N, m, m) float64, exactly symmetric and finite.
    Raises:
        ValueError: not (N, m, m), not real numbers, not finite, or not symmetric; the message names the matrix.
    """
    if values.ndim != 3 or values.shape[1] != values.shape[2] or 0 in values.shape:
        raise ValueError(f"{name}: shape {values.shape}: must be (N, m, m), N square matrices with N and m at least 1")
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{name}: dtype {values.dtype}: must be of real numbers")
    matrices = values.astype(np.float64)
    broken = np.flatnonzero(~np.isfinite(matrices).all(axis=(1, 2)))
    if len(broken):
        raise ValueError(f"{name}[{broken[0]}]: holds NaN or infinity: must be finite; {_others(broken)}repair it")
    transposed = matrices.transpose(0, 2, 1)
    apart = np.abs(matrices - transposed).max(axis=(1, 2))
    share = apart / np.maximum(np.sqrt(np.square(matrices).sum(axis=(1, 2))), np.finfo(np.float64).tiny)
    worst = int(np.argmax(share))
    if share[worst] > ASYMMETRY:
        raise ValueError(
            f"{name}[{worst}]: asymmetric by {share[worst]:.3g} of its norm: must be at most {ASYMMETRY:g}; "
            "write (X + X^T) / 2 if that is meant"
        )
    if share[worst] > 0:
        count = int(np.count_nonzero(share))
        logger.warning(
            "%s: %d matrices are asymmetric by rounding, up to %.1g; made symmetric", name, count, apart.max()
        )
    return np.asarray((matrices + transposed) / 2)


def _others(broken: npt.NDArray[np.intp]) -> str:
    """The number of matrices with the same fault, where there are several."""
    return f"{len(broken)} matrices have this fault; " if len(broken) > 1 else ""


def log_eigenvalues(matrices: Array) -> Array:
    """(N, m) logarithms of the eigenvalues, ascending; NaN where an eigenvalue is 0 or below."""
    values = np.linalg.eigvalsh(matrices)
    return np.log(np.where(values > 0, values, np.nan))


def is_positive(matrices: Array) -> npt.NDArray[np.bool_]:
    """(N,) whether all eigenvalues of a symmetric matrix are above 0, as float64 computes them."""
    return np.asarray(np.linalg.eigvalsh(matrices)[:, 0] > 0)


def check_matrices(values: npt.NDArray[Any], name: str) -> Array:
    """Symmetric positive definite matrices in float64, whose logarithm is exact enough.

    Args:
        values: (N, m, m) as read from a file.
        name: its name, for messages.
    Returns:
        (N, m, m) float64, exactly symmetric.
    Raises:
        ValueError: as check_symmetric(); or an eigenvalue that is 0 or below, or log-eigenvalues too far apart. The
            message names the matrix and its value.
    """
    matrices = check_symmetric(values, name)
    eigenvalues = np.linalg.eigvalsh(matrices)
    broken = np.flatnonzero(~(eigenvalues[:, 0] > 0))
    if len(broken):
        first = broken[0]
        raise ValueError(
            f"{name}[{first}]: its least eigenvalue is {eigenvalues[first, 0]:.3g}: must be above 0; "
            f"{_others(broken)}{SHRINK}"
        )
    spread = np.log(eigenvalues[:, -1]) - np.log(eigenvalues[:, 0])
    wide = np.flatnonzero(spread > SPREAD)
    if len(wide):
        first = wide[0]
        raise ValueError(
            f"{name}[{first}]: its log-eigenvalues spread over {spread[first]:.3g} (eigenvalues "
            f"{eigenvalues[first, 0]:.3g} to {eigenvalues[first, -1]:.3g}): must be at most {SPREAD:g}; "
            f"{_others(wide)}{SHRINK}"
        )
    return matrices


def matrix_file(path: str | Path) -> Path:
    """The file that a name means: itself, or samples.npy of a folder that `sample` wrote.

    Raises:
        ValueError: nothing there, or another kind of file.
    """
    path = Path(path)
    if path.is_dir() and (path / "samples.npy").is_file():
        path = path / "samples.npy"
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if path.is_dir() or path.suffix.lower() not in (".npy", ".npz"):
        raise ValueError(f"{path}: must be a .npy or .npz file of matrices, or a folder with samples.npy")
    return path


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file of matrices, unchecked; the matrices have the key `matrices`.

    Raises:
        ValueError: damaged, pickled, or without an array of matrices.
    """
    if path.suffix.lower() == ".npy":
        return {"matrices": read_npy(path)}
    arrays = dict(read_npz(path))
    found = next((key for key in ("matrices", "arr_0") if key in arrays), None)
    if found is None:
        held = ", ".join(arrays) or "nothing"
        raise ValueError(f"{path}: holds {held}: must hold an array named matrices or arr_0, (N, m, m)")
    return {"matrices": arrays.pop(found), **arrays}


def read_matrices(path: str | Path) -> Matrices:
    """Matrices of a .npy file (N, m, m), or of an .npz file with labels, class_names and covariates.

    In an .npz file `labels` are integers from 0 and `class_names` their names. `y` of shape (N, P) are covariates y1 to
    yP; any other array of shape (N,) is a covariate of its own name.

    Raises:
        ValueError: one line that names the file, the matrix and what to do.
    """
    path = matrix_file(path)
    arrays = read_arrays(path)
    values = check_matrices(arrays.pop("matrices"), str(path))
    count, names = len(values), arrays.pop("class_names", None)
    labels, y = arrays.pop("labels", None), arrays.pop("y", None)
    if labels is not None:
        if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0:
            raise ValueError(f"{path}: labels {labels.shape} {labels.dtype}: must be {count} integers from 0")
        labels = labels.astype(np.int64)
        classes = int(labels.max()) + 1
        if classes > count:
            raise ValueError(f"{path}: labels up to {classes - 1}: must be below the number of matrices, {count}")
        if names is None:
            names = np.array([str(label) for label in range(classes)])
        if names.ndim != 1 or names.dtype.kind not in "US" or len(names) < classes:
            raise ValueError(f"{path}: class_names: must be a list of at least {classes} texts")
    if y is not None:
        columns = y.reshape(len(y), -1) if y.ndim in (1, 2) and len(y) else np.empty((0, 0))
        arrays |= {f"y{i + 1}" if y.ndim == 2 else "y": column for i, column in enumerate(columns.T)}
        if not len(columns):
            raise ValueError(f"{path}: y is {y.shape}: must be ({count}, P), one row of covariates a matrix")
    for key, column in arrays.items():
        if column.shape != (count,) or column.dtype.kind not in "buif" or not np.isfinite(column).all():
            raise ValueError(f"{path}: {key} is {column.shape} {column.dtype}: must be {count} finite numbers")
    parameters = {key: column.astype(np.float64) for key, column in arrays.items()}
    class_names = tuple(str(name) for name in names) if labels is not None and names is not None else ()
    return Matrices(values, labels, class_names, parameters)
