"""Files: atomic writes, JSON, tensors and hashes. Every other room reads and writes through this module.

A name that exists holds a whole file or folder: it is written beside its final name, synced, then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

PARTIAL = ".*.partial"
"""The names of what a killed program leaves half written, as a pattern."""


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """A free name in the folder of `target`, which is made; what has that name when the block ends is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    _remove(temporary)
    try:
        yield temporary
    finally:
        _remove(temporary)


def publish(temporary: Path, target: Path) -> None:
    """Give a whole file or folder its final name, after its content is on the disk; what has the name is replaced."""
    for path in sorted(temporary.rglob("*")) if temporary.is_dir() else ():
        _sync(path)
    _sync(temporary)
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(temporary, target)
    _sync(target.parent)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes `target` when the block ends well, and vanishes otherwise."""
    with temporary_beside(target) as temporary:
        temporary.mkdir()
        yield temporary
        publish(temporary, target)


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename: a reader sees the old file or the whole new one."""
    path = Path(path)
    with temporary_beside(path) as temporary:
        write(temporary)
        publish(temporary, path)


def remove_folder(folder: Path) -> None:
    """Rename a folder, then remove it: killed between, nothing half-removed keeps its name."""
    with temporary_beside(folder) as temporary:
        os.replace(folder, temporary)


def write_text_atomic(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_npy(path: str | Path, array: np.ndarray) -> None:
    """Write a .npy file in one step; no pickle."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as stream:  # given a name, NumPy would add .npy to it
            np.save(stream, array, allow_pickle=False)

    write_atomically(path, write)


def write_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz file in one step; no pickle."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)

    write_atomically(path, write)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file in one step, keys in the given order."""
    write_text_atomic(path, json.dumps(values, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: missing, cut short, or not an object; the message names the file.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); the file may be cut short") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds no JSON object")
    return values


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file; arrays are made contiguous.

    Raises:
        OSError: disk full or not writable.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path, {"format": "pt"})
    except SafetensorError as error:
        raise OSError(errno.EIO, f"cannot be written ({error})", str(path)) from error


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file.

    Raises:
        ValueError: missing, cut short or damaged; the message names the file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); use another checkpoint") from error


def file_hash(*paths: Path) -> str:
    """SHA-256 of a file, or of several one after another, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()
