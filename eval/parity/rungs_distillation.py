"""Rung 4: the images of a distillation, on a network known in closed form.

The twins evaluate the teacher and compute nothing else, so core is held against the formula.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config import SamplingConfig
from core.diffusion.grids import CLEAN, levels_at, timesteps
from core.diffusion.merged import merged_image, refined
from core.diffusion.process import make_process
from core.diffusion.samplers import make_steps, table_of
from core.random import gaussian
from eval.parity.closed_forms import process_tables
from eval.parity.ladder import Board, Twins
from eval.parity.rungs_core import DEVIATION, MEAN, optimal_network
from eval.parity.subject import Subject
from eval.parity.tolerances import SAMPLER_FLOAT64

Array = NDArray[Any]
STEPS, ROWS = 4, 2
"""Most steps of the student, and rows of the teacher to each."""


def distillation(twins: Twins, subject: Subject, board: Board) -> None:
    """The image with which one step of DDIM lands where two rows land, on a network known in closed form.

    Source: Salimans & Ho 2022, algorithm 2: image = (z'' - r z) / (signal'' - r signal) with r = noise'' / noise.
    """
    config = subject.recipe.process
    process, exact = make_process(config), process_tables(config)
    slope, offset = optimal_network(process)
    steps = min(STEPS, process.timesteps // ROWS)
    t = refined(process, timesteps("trailing", steps, process.timesteps), ROWS)
    sampling = SamplingConfig("ddim", clip=False)
    table = table_of(process, make_steps(process, [*levels_at(process, t), CLEAN], sampling)[0], sampling)
    z = gaussian(4, "x_T", range(steps), 0, (4, 6, 2))

    def predict(x: Array, time: Array, guidance: Array) -> Array:
        level = np.abs(process.time - time[:, None]).argmin(axis=1)
        return np.asarray(slope[level].reshape(-1, 1, 1, 1) * x + offset[level].reshape(-1, 1, 1, 1))

    found = merged_image(table, np.arange(0, len(t), ROWS), ROWS, z, predict)
    signal, noise = np.append(exact["signal"][t], 1), np.append(exact["noise"][t], 0)
    expected = np.stack(
        [_landing(z[i], *(values[ROWS * i :][: ROWS + 1] for values in (signal, noise))) for i in range(steps)]
    )
    board.close("image of two rows of DDIM as one", found, expected.astype(np.float64), SAMPLER_FLOAT64)


def _landing(z: Array, signal: Array, noise: Array) -> Array:
    """The image of one row between the ends of levels, from rows between neighbours; all in extended precision."""
    x = z.astype(np.longdouble)
    for (s, s_next), (n, n_next) in zip(pairwise(signal), pairwise(noise), strict=True):
        posterior = MEAN + s * DEVIATION**2 / (s**2 * DEVIATION**2 + n**2) * (x - s * MEAN)
        x = s_next * posterior + n_next * (x - s * posterior) / n
    ratio = noise[-1] / noise[0]
    return np.asarray((x - ratio * z) / (signal[-1] - ratio * signal[0]))
