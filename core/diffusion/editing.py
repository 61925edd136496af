"""Editing without training, as sampling tables: DDIM's inversion, a table's tail, and inpainting with resampling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config import SamplingConfig
from core.diffusion.ancestral import ddim
from core.diffusion.grids import CLEAN, Level, levels_at
from core.diffusion.process import Process
from core.diffusion.samplers import SAMPLERS, check_options, grid_of, make_steps, table_of
from core.diffusion.table import After, SamplingTable, Step


def _plain(config: SamplingConfig) -> SamplingConfig:
    """The flow itself: nothing clipped and nothing guided."""
    return dataclasses.replace(config, clip=False, dynamic_threshold=0.0, guidance=1.0)


def inversion_levels(process: Process, config: SamplingConfig) -> list[Level]:
    """The sampler's grid from noise to image, and t = 0 at its end."""
    levels = grid_of(process, config)
    first = levels_at(process, np.array([0]))
    return levels if levels[-1].half_log_snr >= first[0].half_log_snr else [*levels, *first]


def encode_table(process: Process, config: SamplingConfig) -> SamplingTable:
    """From images to their noise: the flow backwards, by DDIM's step with eps taken where the step begins.

    The image is taken as x / signal at t = 0, the smallest noise level of the process. decode_table() ends there.

    Args:
        process: forward process.
        config: spacing and steps are read.
    Returns:
        A table that starts from the image and ends at the noisiest level.
    Source: Song et al. 2021 (DDIM), section 4.3; Dhariwal & Nichol 2021, appendix F.
    """
    levels = inversion_levels(process, config)[::-1]
    steps = []
    for now, then in pairwise(levels):
        matrix = np.array([[then.noise / now.noise, 0.0, then.signal - then.noise * now.signal / now.noise]])
        steps.append(Step(now, matrix))
    return dataclasses.replace(table_of(process, steps, _plain(config), levels[0].signal), name="ddim inversion")


def decode_table(process: Process, config: SamplingConfig) -> SamplingTable:
    """From noise to the images that encode_table() had: DDIM without noise over the same levels; arguments as there."""
    levels = inversion_levels(process, config)
    steps = ddim(levels, dataclasses.replace(config, eta=0.0))
    steps[-1] = dataclasses.replace(steps[-1], matrix=steps[-1].matrix / levels[-1].signal)
    return table_of(process, steps, _plain(config))


def slerp(a: NDArray[Any], b: NDArray[Any], share: float) -> NDArray[Any]:
    """Between two noises along the arc, which keeps their size; share 0 is a, 1 is b.

    Args:
        a, b: (B, ..., C).
        share: in [0, 1].
    Source: Shoemake 1985, section 3.3; Song et al. 2021, appendix D.5.
    """
    flat_a, flat_b = a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64)
    sizes = np.linalg.norm(flat_a, axis=1) * np.linalg.norm(flat_b, axis=1)
    angle = np.arccos(np.clip(np.sum(flat_a * flat_b, axis=1) / sizes, -1, 1))[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        left = np.where(angle < 1e-6, 1 - share, np.sin((1 - share) * angle) / np.sin(angle))
        right = np.where(angle < 1e-6, share, np.sin(share * angle) / np.sin(angle))
    mixed: NDArray[Any] = (left * flat_a + right * flat_b).reshape(a.shape).astype(a.dtype)
    return mixed


def tail_table(process: Process, config: SamplingConfig, strength: float) -> tuple[SamplingTable, Level]:
    """The last rows of a sampler, and the level that an image is noised to before them.

    Args:
        process: forward process.
        config: what to sample with; churn, which also noises the first state, is refused.
        strength: share of the grid's steps that are taken, in (0, 1]; rounded, at least one.
    Source: Meng et al. 2022, SDEdit, algorithm 1.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"--strength {strength}: must be above 0 and at most 1")
    if config.churn:
        raise ValueError(f"sampling.churn = {config.churn}: must be 0 where sampling starts from an image")
    check_options(config)
    grid = grid_of(process, config)
    levels = [*grid[len(grid) - max(1, round(strength * len(grid))) :], CLEAN]
    steps, _ = make_steps(process, levels, config)
    return table_of(process, steps, dataclasses.replace(config, guidance=1.0)), levels[0]


def fitting_jump(steps: int) -> int:
    """A jump for a grid of `steps` points: the paper's 10, or half of the points where there are 10 or fewer."""
    return 10 if steps > 10 else max(1, steps // 2)


def visits(steps: int, jump: int, resample: int) -> list[int]:
    """Grid points in the order of resampling: 0 is the noisiest, `steps` the clean image.

    At every jump-th point from the end the walk goes back by `jump` points, resample - 1 times.

    Raises:
        ValueError: a jump or a number of passes out of range.
    Source: Lugmayr et al. 2022, RePaint, figure 9 (their get_schedule_jump).
    """
    if not 1 <= jump < max(steps, 2):
        raise ValueError(f"--jump {jump}: must be in [1, {max(steps, 2) - 1}], below the number of steps")
    if resample < 1:
        raise ValueError(f"--resample {resample}: must be at least 1")
    left = {place: resample - 1 for place in range(0, steps - jump, jump)}
    place, path = steps - 1, [0]  # counted from the last point, as theirs
    while place >= 0:
        place -= 1
        if left.get(place, 0) > 0:
            left[place] -= 1
            place += jump
        path.append(steps - 1 - place)
    return path


def repaint_table(
    process: Process, config: SamplingConfig, jump: int = 1, resample: int = 1
) -> tuple[SamplingTable, list[Level]]:
    """A sampler with resampling, and the level that each row leads to.

    A jump back is no row of its own. The step x' = M x + s z and the noise added again are both Gaussian, so one row
    does both. From level b back to a its matrix is r M, with r = signal_a / signal_b; its deviation is
    sqrt((r s)^2 + noise_a^2 - (r noise_b)^2). The known pixels, which the paper replaces at b before the jump, are
    replaced again at a.

    Args:
        process: forward process.
        config: of a sampler that keeps the image alone; a learned variance only without jumps.
        jump: points of the grid that a jump goes back.
        resample: times that each stretch of the grid is passed; 1 for no jumps.
    Source: Lugmayr et al. 2022, RePaint, algorithm 1 and section 4.2.
    """
    able = [sampler for sampler, row in SAMPLERS.items() if row.keeps_image_alone]
    if config.sampler not in able:
        raise ValueError(
            f"--sampler {config.sampler}: must be {' or '.join(able)}, which keep nothing but the image from row to row"
        )
    if resample > 1 and config.variance == "learned":
        raise ValueError("--variance learned: must be fixed_small or fixed_large with --resample above 1")
    check_options(config)
    grid = [*grid_of(process, config), CLEAN]
    steps, reached = [], []
    for at, to in pairwise(visits(len(grid) - 1, jump, resample)):
        (step,), _ = make_steps(process, grid[at : at + 2], config)
        if to != at + 1:
            before, after = grid[at + 1], grid[to]
            ratio = after.signal / before.signal
            added = after.noise**2 - (ratio * before.noise) ** 2
            step = dataclasses.replace(step, matrix=ratio * step.matrix, s=math.sqrt((ratio * step.s) ** 2 + added))
        steps.append(step)
        reached.append(grid[to])
    _, start = make_steps(process, grid[:2], config)
    return table_of(process, steps, dataclasses.replace(config, guidance=1.0), start), reached


def keep_known(
    known: NDArray[Any], hole: NDArray[np.bool_], reached: list[Level], noise: Callable[[int], NDArray[Any]]
) -> After:
    """The hook after each row of repaint_table(): the known pixels are those of the image at the row's level.

    Args:
        known: (B, ..., C) images in [-1, 1].
        hole: where to paint, broadcast against known.
        reached: the level after each row.
        noise: row -> (B, ..., C) standard normal noise.
    Source: Lugmayr et al. 2022, eq. 8.
    """

    def after(row: int, x: NDArray[Any], x_0: NDArray[Any]) -> NDArray[Any]:
        level = reached[row]
        outside = level.signal * known + (level.noise * noise(row) if level.noise else 0.0)
        return np.where(hole, x, outside.astype(x.dtype))

    return after
