"""Files of images decoded: .npy, pictures and IDX. One row a format; nothing is scaled, and no pickle is loaded."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[Any]

IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
CONVERT = "convert it with `python -m core.data convert-pickles FOLDER OUT --i-trust-this-source`"


def describe(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    """Such as '150x150x1 float64'."""
    return f"{'x'.join(map(str, shape))} {dtype}"


def to_hwc(array: Image, name: str, channels: int | None = None) -> Image:
    """One image as (H, W, C).

    Args:
        array: (H, W), (C, H, W) or (H, W, C).
        name: for messages.
        channels: C where it is known; else an axis of at most 4 is taken for the channels, if only one end has such.
    Raises:
        ValueError: not numbers, another number of axes, or no way to tell which axis holds the channels.
    """
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name}: dtype {array.dtype}; images must be of bool, integer or real values")
    if array.ndim == 2 and array.size:
        return array[..., None]
    if array.ndim != 3 or not array.size:
        raise ValueError(f"{name}: shape {array.shape}; an image must be (H, W), (C, H, W) or (H, W, C)")
    ends = (array.shape[0], array.shape[2])
    first, last = (end == channels for end in ends)
    if first == last:
        first, last = (end <= 4 for end in ends)
    if first == last:
        raise ValueError(
            f"{name}: shape {array.shape} is ambiguous, (C, H, W) or (H, W, C); store it as (H, W) or with the "
            f"channels on one end only{'' if channels is None else f' ({channels} as model.in_channels says)'}"
        )
    return np.ascontiguousarray(array.transpose(1, 2, 0)) if first else array


def decode_npy(data: bytes, name: str) -> Image:
    """The array of a .npy file; ValueError where it is pickled, truncated or no such file."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except ValueError as error:
        raise ValueError(f"{name}: not a .npy file, or a truncated one; download or write it again") from error
    if dtype.hasobject:
        raise ValueError(f"{name}: a pickled object array, which could run code and is not loaded; {CONVERT}")
    count, offset = int(np.prod(shape)), stream.tell()
    if len(data) - offset < count * dtype.itemsize:
        raise ValueError(f"{name}: truncated: {len(data)} bytes; download or write it again")
    array = np.frombuffer(data, dtype, count, offset).reshape(shape, order="F" if fortran else "C")
    return np.ascontiguousarray(array, dtype.newbyteorder("="))


def decode_picture(data: bytes, name: str) -> Image:
    """(H, W, C) of uint8, uint16 or float32; ValueError for a broken file, transparency or another colour model."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    try:
        with Pillow.open(io.BytesIO(data)) as opened:
            picture = ImageOps.exif_transpose(opened)
            picture.load()
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise ValueError(f"{name}: not a whole picture ({error}); download or write it again") from error
    if picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    if picture.mode in ("RGBA", "LA"):
        if picture.getchannel("A").getextrema() != (255, 255):
            raise ValueError(f"{name}: has transparent pixels; flatten it onto a background first")
        picture = picture.convert(picture.mode[:-1])
    if picture.mode == "1":
        picture = picture.convert("L")
    pixels = np.asarray(picture)
    if picture.mode == "I" and int(pixels.min()) >= 0 and int(pixels.max()) <= 65535:  # 16-bit grey of some formats
        pixels = pixels.astype(np.uint16)
    elif picture.mode not in ("L", "RGB", "F") and not picture.mode.startswith("I;16"):
        raise ValueError(f"{name}: colour mode {picture.mode}; save it as grey or RGB")
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _npy(data: bytes, name: str, channels: int | None) -> Image:
    return to_hwc(decode_npy(data, name), name, channels)


def _picture(data: bytes, name: str, channels: int | None) -> Image:
    return decode_picture(data, name)


FORMATS: dict[str, Callable[[bytes, str, int | None], Image]] = {
    ".npy": _npy,
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"), _picture),
}
"""Files that hold one image, by suffix: (bytes, name for messages, channels or None) -> (H, W, C).

A new format is its function and a row here; folders, zips and single files of it then open everywhere."""


def decode(data: bytes, name: str, channels: int | None = None) -> Image:
    """The image (H, W, C) of one file, by its suffix; ValueError where it is broken or of no known format."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{name}: unknown kind of file; must end in one of {', '.join(FORMATS)}")
    return FORMATS[suffix](data, name, channels)


def read_idx(path: Path) -> Image:
    """The array of an IDX file, plain or gzipped; ValueError for a wrong magic number or length."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error}); download it again") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in IDX_TYPES or data[3] == 0:
        raise ValueError(f"{path}: magic number {data[:4].hex()} is not that of an IDX file; download it again")
    dtype, axes = np.dtype(IDX_TYPES[data[2]]), data[3]
    start = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", data[4:start]) if len(data) >= start else (0,)
    expected = start + int(np.prod(shape)) * dtype.itemsize
    if len(data) < start or len(data) != expected:
        raise ValueError(f"{path}: {len(data)} bytes where its header says {expected}; download it again")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
