"""Several rows of DDIM as one: their levels, and the image for which a single row lands where the rows land."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.diffusion.process import Process
from core.diffusion.table import SamplingTable, clipped

Array = NDArray[np.float64]
Predict = Callable[[Array, Array, Array], NDArray[Any]]
"""(x (B, H, W, C), t (B,), guidance (B, 1, 1, 1)) -> the network's guided output (B, H, W, C)."""
NO_SIGNAL = 0.05
"""signal / noise below which a level says next to nothing of the image."""


def refined(process: Process, starts: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Timesteps of a grid with more points: each step of a coarse grid becomes `count` steps.

    Args:
        process: forward process.
        starts: (n,) timesteps of the coarse grid, descending.
        count: steps in the place of each; at least 2, and starts lie at least that far apart.
    Returns:
        (n count,) int64, descending and distinct: in each step evenly in log(1 + signal / noise), which is log-SNR / 2
        where there is little noise and the share of the image where there is much. The last step goes to t = 0.
    """
    every, found = np.arange(process.timesteps), []
    place = np.log(NO_SIGNAL + process.signal / process.noise)  # falls with t
    for start, end in zip(starts, [*starts[1:], -1], strict=True):
        points = np.linspace(place[start], place[max(end, 0)], count, endpoint=bool(end < 0))
        rounded = np.round(np.interp(points, place[::-1], every[::-1])).astype(np.int64)
        # t + index must not rise, so that no timestep comes twice, nor come too near the next start.
        index = np.arange(count)
        found.append(np.maximum(np.minimum.accumulate(rounded + index), end + count) - index)
    return np.concatenate(found)


def merged_image(
    table: SamplingTable,
    first: NDArray[np.integer[Any]],
    count: int,
    x_t: Array,
    predict: Predict,
) -> Array:
    """The image for which one row of DDIM lands where some rows of a table land, which may differ between images.

    Args:
        table: DDIM without noise.
        first: (B,) index of the first row.
        count: number of rows, which follow each other.
        x_t: (B, H, W, C) the states before the first row.
        predict: evaluates the network.
    Returns:
        (B, H, W, C). It is an average of the rows' predicted images, so that a table that clips them clips it too.
    Source: Salimans & Ho 2022, algorithm 2, for any number of rows.
    """
    # A row is x <- keep x + gain image. So x = K x_t + total after some rows, and total = G image for one row with that
    # K and G: with K and G built up alike, image = total / G. No difference is taken, so nothing is lost near t = 0.
    x, total, gain = x_t, np.zeros_like(x_t), np.zeros((len(x_t), 1, 1, 1))
    given = np.array([[row.t, row.p, row.q, *row.matrix[0, :2], row.guidance] for row in table.rows])
    for index in range(count):
        t, p, q, keep, own, guidance = given[first + index].T.reshape(6, -1, 1, 1, 1)
        image = clipped(table, p * x + q * predict(x, t.reshape(-1), guidance))
        x, total, gain = keep * x + own * image, keep * total + own * image, keep * gain + own
    return total / gain
