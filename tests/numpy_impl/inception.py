"""Published weights: arrays in an .npz."""

from pathlib import Path

import numpy as np

from core.twin import Published


def read_published(path: Path) -> dict[str, np.ndarray]:
    """The arrays."""
    return dict(np.load(path))


PUBLISHED = Published("", "", read_published)
