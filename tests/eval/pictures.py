"""Folders of pictures, for the tests of eval."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.images import to_uint8


def save_pictures(folder: Path, n: int = 60, seed: int = 1, size: int = 8) -> Path:
    """A folder of grey PNG files of random pixels."""
    from PIL import Image

    folder.mkdir()
    for i, image in enumerate(to_uint8(np.random.default_rng(seed).random((n, size, size)))):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder
