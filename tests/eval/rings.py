"""Images of known rings, for the tests of eval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rings(
    n: int,
    seed: int,
    radius: tuple[float, float] = (5.0, 8.0),
    noise: float = 0.01,
    size: tuple[int, int] = (24, 28),
    channels: int = 1,
) -> NDArray[np.float32]:
    """Noisy rings on a grey sky, radii uniform, so that their distributions are known."""
    g = np.random.Generator(np.random.Philox(key=seed))
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    r = np.hypot(y - (size[0] - 1) / 2, x - (size[1] - 1) / 2)
    radii = g.uniform(*radius, n)[:, None, None]
    clean = 0.1 + 0.7 * np.exp(-0.5 * ((r - radii) / 1.5) ** 2)
    images = clean[..., None] + noise * g.standard_normal((n, *size, channels))
    return np.asarray(np.clip(images, 0, 1), np.float32)
