"""Arrays in files: .npy, .npz and other zips; no size in them is believed, and no pickle is loaded.

Most functions raise errors of any kind, for the guard `reading` of core.reading.
"""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from core.reading import check_file, check_memory, reading


class PickledError(ValueError):
    """A .npy file that holds pickled objects."""


def read_npy_header(stream: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of a .npy file, whose size must be as they say; allocates nothing.

    Args:
        stream: at the first byte; afterwards at the first byte of the array.
        size: bytes of the whole file.
    Raises:
        ValueError: another kind of file, or a damaged header. Other errors too: call it inside `reading`.
    """
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version[0]}.{version[1]} of the format")
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise PickledError("holds pickled objects, which could run code and are not loaded")
    if any(axis < 0 for axis in shape):
        raise ValueError(f"shape {shape}")
    expected = stream.tell() + math.prod(shape) * dtype.itemsize
    if expected != size:
        raise ValueError(f"{size} bytes where its header says {expected}")
    return shape, fortran, dtype


def map_npy(path: str | Path) -> np.ndarray:
    """The array of a .npy file, memory-mapped and read-only; errors of any kind: call it inside `reading`."""
    with open(path, "rb") as stream:
        shape, fortran, dtype = read_npy_header(stream, os.fstat(stream.fileno()).st_size)
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", stream.tell(), shape, "F" if fortran else "C")


def open_zip(path: str | Path) -> zipfile.ZipFile:
    """A zip whose directory is whole; errors of any kind: call it inside `reading`."""
    archive = zipfile.ZipFile(path)
    with open(path, "rb") as stream:
        stream.seek(max(os.fstat(stream.fileno()).st_size - 2**16 - 22, 0))  # the longest comment, and the end record
        tail = stream.read()
    end = tail[tail.rfind(b"PK\x05\x06") :]
    counts, found = {int.from_bytes(end[at : at + 2], "little") for at in (8, 10)}, len(archive.infolist())
    if counts not in ({found}, {2**16 - 1}):  # the largest number stands for more than fit
        raise ValueError(f"its directory shows {found} files where {min(counts)} were written")
    return archive


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A file of a zip, of which no more is unpacked than the size that is claimed; call it inside `reading`."""
    check_memory(info.filename, info.file_size)
    with archive.open(info) as stream:
        data = stream.read(info.file_size)
    if len(data) != info.file_size:
        raise ValueError(f"{len(data)} bytes where the zip says {info.file_size}")
    return data


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file; no pickle, and nothing is allocated that the file does not hold.

    Raises:
        ValueError: damaged, or something else, or more than fits into memory; the message names the file.
    """
    with reading(path, "a whole .npy file"):
        check_file(path, 2)
        return np.array(map_npy(path))


def read_npz(path: str | Path, expected: str = "a whole .npz file of plain arrays") -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; no pickle, and nothing is allocated that the file does not hold.

    Raises:
        ValueError: damaged, or something else, or more than fits into memory; the message names the file.
    """
    arrays: dict[str, np.ndarray] = {}
    with reading(path, expected), open_zip(path) as archive:
        check_memory(path, 2 * max((info.file_size for info in archive.infolist()), default=0))
        check_memory(path, sum(info.file_size for info in archive.infolist()))
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"{info.filename} occurs twice")
            with archive.open(info) as stream:
                shape, fortran, dtype = read_npy_header(stream, info.file_size)
                data = bytearray(stream.read(info.file_size - stream.tell()))
            arrays[name] = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return arrays
