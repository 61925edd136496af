"""Sampling tables: a sampler is one row of numbers for every evaluation of the network, run by one short loop.

A row (t, p, q, matrix, s) means

    output = network(state[0], t), guided where the row says so: weak + guidance * (output - weak)
    raw = p * state[0] + q * output;  x0 = clip(raw)
    state = matrix @ [*state, x0, raw];  state[0] += s * z

The state starts as [start * x_T] with x_T ~ N(0, 1) and ends with the image as state[0]. Histories hold the clipped x0,
and eps is derived from it again. run() is the executor on arrays; PyTorch has the same loop on tensors, for a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.diffusion.grids import Level

Array = NDArray[np.float64]
After = Callable[[int, NDArray[Any], NDArray[Any]], NDArray[Any]]
"""The hook after a row: (row's index, state[0], predicted images) -> the state[0] to go on from; all (B, H, W, C)."""


@dataclass(frozen=True, eq=False)
class Row:
    """One evaluation of the network and the step after it."""

    t: float
    """Time that the network is given: 0-based, in [0, T - 1], and on a flow T noise, in (0, T]."""
    p: float
    """Coefficient of state[0] in the predicted image."""
    q: float
    """Coefficient of the network's output in the predicted image."""
    matrix: Array
    """(K_out, K_in + 2): the next state from [*state, x0, raw]."""
    s: float
    """Standard deviation of the noise added to state[0]; no noise is drawn where it is 0."""
    s_large: float | None = None
    """Where the network has learned the variance: s at a fraction of 1; s is then the value at a fraction of 0."""
    guidance: float = 1.0
    """g of weak + g (output - weak), which takes a second, weak evaluation; 1: none."""


@dataclass(frozen=True, eq=False)
class Step:
    """A row before process and prediction type are known: where the network is evaluated, and the rest of the row."""

    level: Level
    matrix: Array
    s: float = 0.0
    s_large: float | None = None


@dataclass(frozen=True)
class SamplingTable:
    """A sampler on a grid of noise levels."""

    rows: tuple[Row, ...]
    clip: bool
    """Clip the predicted image to [-1, 1] at every step."""
    name: str
    start: float = 1.0
    """Standard deviation of the first state."""
    quantile: float = 0.0
    """With clip: clip to the quantile of |x0| of an image where that is above 1, and divide by it (0: no)."""

    @property
    def nfe(self) -> int:
        """Number of evaluations of the network an image, weak ones not counted."""
        return len(self.rows)

    @property
    def network_evaluations(self) -> int:
        """Number of evaluations of any network an image: two in a guided row."""
        return len(self.rows) + sum(row.guidance != 1 for row in self.rows)


def quantile_position(quantile: float, pixels: int) -> tuple[int, float]:
    """Where a quantile of sorted values lies: the index below it, and the weight of the value after that.

    Args:
        quantile: in (0, 1].
        pixels: number of values.
    Source: linear interpolation, NumPy's default.
    """
    place = quantile * (pixels - 1)
    low = min(int(place), max(pixels - 2, 0))
    return low, place - low


def clipped(table: SamplingTable, raw: NDArray[Any]) -> NDArray[Any]:
    """The predicted images as the table clips them.

    Source: Saharia et al. 2022, section 2.3 (dynamic thresholding).
    """
    if not table.clip:
        return raw
    if not table.quantile:
        return raw.clip(-1, 1)
    size = np.sort(np.abs(raw).reshape(len(raw), -1), axis=1)
    low, weight = quantile_position(table.quantile, size.shape[1])
    limit = np.maximum((1 - weight) * size[:, low] + weight * size[:, min(low + 1, size.shape[1] - 1)], 1.0)
    limit = limit.reshape(-1, *[1] * (raw.ndim - 1))
    images: NDArray[Any] = np.clip(raw, -limit, limit) / limit
    return images


def run(
    table: SamplingTable,
    network: Callable[[NDArray[Any], float], NDArray[Any]],
    x_T: NDArray[Any],
    noise: Callable[[int], NDArray[Any]],
    guided: Callable[[NDArray[Any], float], tuple[NDArray[Any], NDArray[Any]]] | None = None,
    after: After | None = None,
) -> NDArray[Any]:
    """Run a table in NumPy, in the dtype of x_T.

    Args:
        table: from core.diffusion.samplers.make_table().
        network: (x_t, t) -> output, shaped as x_t; with twice its channels where the variance is learned.
        x_T: (B, ..., C) standard normal noise.
        noise: row index -> standard normal noise shaped as x_T; called only where the row adds noise.
        guided: (x_t, t) -> the outputs of the network and of the weaker one; called in guided rows in place of network.
        after: the hook after each row; what it returns is the next state[0].
    Returns:
        (B, ..., C) images; in [-1, 1] where the table clips, since the last row returns x0.
    """
    # float() since a float64 scalar of NumPy's would make float32 images float64, and a Python number does not.
    state: list[Any] = [float(table.start) * x_T]
    channels = x_T.shape[-1]
    for index, row in enumerate(table.rows):
        if guided is None or row.guidance == 1:
            output = network(state[0], row.t)
            predicted = output[..., :channels]
        else:
            output, low = guided(state[0], row.t)
            low = low[..., :channels]
            predicted = low + float(row.guidance) * (output[..., :channels] - low)
        raw = float(row.p) * state[0] + float(row.q) * predicted
        x_0 = clipped(table, raw)
        entries = [*state, x_0, raw]
        state = [sum(float(c) * entry for c, entry in zip(line, entries, strict=True) if c) for line in row.matrix]
        if row.s != 0:
            state[0] = state[0] + deviation(row, output[..., channels:]) * noise(index)
        if after is not None:
            state[0] = after(index, state[0], x_0)
    images: NDArray[Any] = state[0]
    return images


def deviation(row: Row, fraction: NDArray[Any]) -> Any:
    """Standard deviation of a row's noise; `fraction` is the network's second half of channels, in [-1, 1].

    Source: Nichol & Dhariwal 2021, eq. 15: the variances' logarithms are interpolated.
    """
    if row.s_large is None:
        return float(row.s)
    return np.exp(math.log(row.s) + (fraction + 1) / 2 * math.log(row.s_large / row.s))
