"""Files: atomic writes, JSON, tensors and hashes. Every other room writes through this module; core.reading reads.

A name that exists holds a whole file or folder: it is written beside its final name, synced, then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.reading import reading

logger = logging.getLogger(__name__)

_HOST = re.sub(r"[^\w-]", "-", platform.node())[:32]
_TEMPORARY = re.compile(r"\..+\.(?P<process>\d+)@(?P<host>[\w-]*)\.[0-9a-f]{16}\.partial")


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
    """A free name in the folder of `target`, which is made; what has that name when the block ends is removed.

    The name holds the process, the host, and a random part that nobody can guess.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}@{_HOST}.{secrets.token_hex(8)}.partial")
    try:
        yield temporary
    finally:
        _remove(temporary)


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove those of the paths that are temporary files and folders of dead processes of this host."""
    for path in [*paths]:
        name = _TEMPORARY.fullmatch(path.name)
        if name and name["host"] == _HOST and not _is_alive(int(name["process"])):
            _remove(path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def publish(temporary: Path, target: Path) -> None:
    """Give a whole file or folder its final name, after its content is on the disk; what has the name is replaced."""
    for path in sorted(temporary.rglob("*")) if temporary.is_dir() else ():
        _sync(path)
    _sync(temporary)
    with temporary_beside(target) as old:
        if target.is_dir():
            os.replace(target, old)  # one step cannot replace a folder
        try:
            os.replace(temporary, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
        _sync(target.parent)


@contextlib.contextmanager
def writing_to(place: Path, option: str) -> Iterator[None]:
    """Where the block may not write, as in a read-only checkout, the OSError says which option names another place."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        text = f"cannot be written ({error.strerror}); name another place with {option}"
        raise OSError(error.errno, text, str(place)) from error


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
        temporary.touch(exist_ok=False)  # follows no link that another user put there
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


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file in one step; arrays are made contiguous.

    Raises:
        OSError: disk full or not writable.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    with temporary_beside(path) as folder:  # safetensors has a temporary file of its own, beside the file
        folder.mkdir()
        file = folder / path.name
        file.touch()
        mode = file.stat().st_mode  # as the umask says; safetensors' own file is for its owner alone
        try:
            save_file(arrays, file, {"format": "pt"})
        except SafetensorError as error:
            raise OSError(errno.EIO, f"cannot be written ({error})", str(path)) from error
        file.chmod(mode)
        publish(file, path)


def file_hash(*paths: Path) -> str:
    """SHA-256 of a file, or of several one after another, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def sum_file(path: Path) -> Path:
    """The file beside `path` with its SHA-256, which `sha256sum --check` reads."""
    return path.with_name(path.name + ".sha256")


def keep_sum(path: Path) -> None:
    """Write sum_file()."""
    write_text_atomic(sum_file(path), f"{file_hash(path)}  {path.name}\n")


def kept_sum(path: Path) -> str | None:
    """The SHA-256 in sum_file(), or None where there is no such file.

    Raises:
        ValueError: the file holds something else.
    """
    if not sum_file(path).exists():
        return None
    with reading(sum_file(path), "a line of sha256sum", "remove it"):
        found = re.match(r"[0-9a-f]{64}\b", sum_file(path).read_text(encoding="utf-8"))
        if not found:
            raise ValueError("it does not begin with a SHA-256")
        return found[0]


def cache_folder() -> Path:
    """Where fetched weights and compiled functions are kept: $DIPTYCH_CACHE, or ~/.cache/diptych."""
    return Path(os.environ.get("DIPTYCH_CACHE") or Path.home() / ".cache" / "diptych")
