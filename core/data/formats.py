"""Files of images decoded: .npy, pictures and IDX. One row a format; nothing is scaled, and no pickle is loaded."""

from __future__ import annotations

import gzip
import io
import math
import struct
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from core.arrays import PickledError, read_npy_header
from core.reading import check_memory, reading

Image = npt.NDArray[Any]

IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
AGAIN = "download or write it again"
CONVERT = "convert it with `python -m core.data convert-pickles FOLDER OUT --i-trust-this-source`"

PICTURES = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
"""Pillow's names of the pictures that are decoded, whatever the suffix says."""
MAX_PIXELS = 2**26
"""Pixels of the largest picture, such as 8192 x 8192."""


def describe(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    """Such as '150x150x1 float64'."""
    return f"{'x'.join(map(str, shape))} {dtype}"


def _channel_axis(shape: tuple[int, ...], channels: int | None) -> int | None:
    """The axis of an image (3 axes) that holds the channels: 0 or 2, or None where neither is more likely."""
    first, height, last = shape
    signs = (
        (first == channels, last == channels),
        (first <= 4, last <= 4),
        (height == last != first, first == height != last),  # a square image
        (2 * first <= min(height, last), 2 * last <= min(first, height)),  # fewer channels than half the pixels
    )
    return next((0 if found[0] else 2 for found in signs if found[0] != found[1]), None)


def to_hwc(array: Image, name: str, channels: int | None = None) -> Image:
    """One image as (H, W, C).

    Args:
        array: (H, W), (C, H, W) or (H, W, C).
        name: for messages.
        channels: C where it is known. Else the channels are the end that has at most 4 values, or that leaves a square
            image, or that is at most half as long as the other axes: the first of these that only one end fulfils.
    Raises:
        ValueError: not numbers, another number of axes, or no way to tell which axis holds the channels.
    """
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name}: dtype {array.dtype}; images must be of bool, integer or real values")
    if array.ndim == 2 and array.size:
        return array[..., None]
    if array.ndim != 3 or not array.size:
        raise ValueError(f"{name}: shape {array.shape}; an image must be (H, W), (C, H, W) or (H, W, C)")
    axis = _channel_axis(array.shape, channels)
    if axis is None:
        raise ValueError(
            f"{name}: shape {array.shape} is ambiguous, (C, H, W) or (H, W, C); store it as (H, W) or with the "
            f"channels on one end only{'' if channels is None else f' ({channels} as model.in_channels says)'}"
        )
    return np.ascontiguousarray(array.transpose(1, 2, 0)) if axis == 0 else array


def npy_header(stream: IO[bytes], size: int, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """As core.arrays.read_npy_header, of the file `name`."""
    with reading(name, "a whole .npy file", AGAIN):
        try:
            return read_npy_header(stream, size)
        except PickledError as error:
            raise ValueError(f"{name}: {error}; {CONVERT}") from error


def decode_npy(data: bytes, name: str) -> Image:
    """The array of a .npy file; ValueError where it is pickled, truncated or no such file."""
    stream = io.BytesIO(data)
    shape, fortran, dtype = npy_header(stream, len(data), name)
    with reading(name, "a whole .npy file", AGAIN):
        array = np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")
        return np.ascontiguousarray(array, dtype.newbyteorder("="))


def decode_picture(data: bytes, name: str) -> Image:
    """(H, W, C) of uint8, uint16 or float32; ValueError for a broken file, transparency or another colour model."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    with reading(name, "a whole picture", AGAIN), Pillow.open(io.BytesIO(data), formats=PICTURES) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"{name}: {opened.width}x{opened.height} pixels; must be at most {MAX_PIXELS} in all")
        if opened.format == "PNG":  # load() stops at the last pixel; this reads every checksum
            Pillow.open(io.BytesIO(data)).verify()
        picture = ImageOps.exif_transpose(opened)
        picture.load()
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


MOST_UNPACKED = 1032
"""Bytes that one byte of a gzip unpacks to at most. Source: zlib's technical details, "Maximum Compression Factor"."""


def read_idx(path: Path) -> Image:
    """The array of an IDX file, plain or gzipped; ValueError for a wrong magic number or length."""
    expected = "a whole gzip file" if path.suffix == ".gz" else "a whole IDX file"
    with (
        reading(path, expected, "download it again"),
        (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file,
    ):
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_TYPES or head[3] == 0:
            raise ValueError(f"{path}: magic number {head.hex()} is not that of an IDX file; download it again")
        dtype, axes = np.dtype(IDX_TYPES[head[2]]), head[3]
        sizes = file.read(4 * axes)
        shape = struct.unpack(f">{len(sizes) // 4}I", sizes[: len(sizes) // 4 * 4])
        start, size = 4 + 4 * axes, math.prod(shape) * dtype.itemsize
        if path.suffix == ".gz" and size > MOST_UNPACKED * path.stat().st_size:
            raise ValueError(f"{path}: its header says {start + size} bytes, more than it can hold; download it again")
        check_memory(path, 2 * size)
        data = file.read(size + 1)  # of a gzip, no more is unpacked
        if len(sizes) < 4 * axes or len(data) != size:
            found = "more" if len(data) > size else 4 + len(sizes) + len(data)
            raise ValueError(f"{path}: {found} bytes where its header says {start + size}; download it again")
        return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))
