"""DeepLenseSim's pickled `[image, mass]` files to plain arrays, without unpickling them.

docs/reliability.md says what is guaranteed.
"""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core.arrays import read_npy_header
from core.data.opcodes import DTYPES, MAX_BYTES, interpret
from core.files import write_npy
from core.reading import reading

MAX_HEADER = 4096
"""Bytes of the longest .npy header; NumPy writes 128 for these files."""
HEADER = re.compile(
    rb"\{'descr': '([<>|]?\w{1,8})', 'fortran_order': (?:False|True), 'shape': \(([\d, ]*)\),? ?\} *\n?"
)


def convert_pickles(
    folder: str | Path, out: str | Path, trusted: bool = False, progress: Callable[[list[Path]], Any] = iter
) -> int:
    """DeepLenseSim's pickled `[image, mass]` files to plain arrays and parameters.csv; plain files are copied.

    Args:
        folder: read recursively; only .npy files count.
        out: a new or empty folder, which gets the same layout.
        trusted: must be True: the caller knows who made the files.
        progress: wraps the list of files, as tqdm does.
    Returns:
        Number of files written.
    Raises:
        ValueError: not trusted, out not empty, no files, or a file of another kind.
    """
    folder, out = Path(folder), Path(out)
    if not trusted:
        raise ValueError(f"{folder}: pickled files can do harm; add --i-trust-this-source if you know who made them")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is not empty; name a new folder")
    paths = sorted(
        p for p in folder.rglob("*.npy") if p.is_file() and not p.name.startswith("._") and "__MACOSX" not in p.parts
    )
    if not paths:
        raise ValueError(f"{folder}: no .npy files; give the folder that holds them")
    masses: list[tuple[str, float]] = []
    for path in progress(paths):
        target = out / path.relative_to(folder)
        with reading(path, "a pickled [image, mass]", "remove it"), open(path, "rb") as stream:
            content = image_and_mass(stream.read(MAX_BYTES + 1))
            if content is None:
                stream.seek(0)
                read_npy_header(stream, path.stat().st_size)
        if content is None:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            continue
        masses.append((path.relative_to(folder).as_posix(), content[1]))
        write_npy(target, content[0])
    with open(out / "parameters.csv", "w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([("file", "mass"), *masses])
    return len(paths)


def image_and_mass(data: bytes) -> tuple[np.ndarray, float] | None:
    """The content of a .npy file with a pickled object array `[image, mass]`; nothing in the file is run.

    Args:
        data: the bytes of the file; of a plain array, its first bytes.
    Returns:
        The image, 2 or 3 axes of real numbers in native byte order, and the mass; None where the file is a plain array.
    Raises:
        ValueError: anything else, with what was found.
    """
    width = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4, b"\x93NUMPY\x03\x00": 4}.get(data[:8])
    if width is None:
        raise ValueError("no .npy file of version 1 to 3")
    end = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    header = HEADER.fullmatch(data, 8 + width, end) if end <= min(len(data), MAX_HEADER) else None
    if header is None:
        raise ValueError("its header is not one that NumPy writes")
    dtype, shape = header[1].decode(), header[2].decode()
    if dtype.lstrip("<>|") in DTYPES:
        return None
    if dtype.lstrip("|") != "O" or shape not in ("2,", "2, "):
        raise ValueError(f"dtype {dtype}, shape ({shape[:40]}): must be objects of shape (2,)")
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    image, mass = interpret(data[end:])
    if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
        raise ValueError(f"not an image: {getattr(image, 'shape', 'a number')}; must be 2 or 3 axes of numbers")
    if isinstance(mass, np.ndarray) and mass.ndim:
        raise ValueError(f"not a mass: shape {mass.shape}; must be a number")
    try:
        return image.astype(image.dtype.newbyteorder("="), copy=False), float(mass)
    except OverflowError as error:
        raise ValueError("not a mass: a whole number that no float holds") from error
