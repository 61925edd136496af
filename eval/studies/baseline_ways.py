"""The ways in which the baseline study draws: which weights, which reverse loop, and how its end becomes an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from core.config import ProcessConfig, SamplingConfig, Variance
from core.diffusion.process import from_betas, make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import Row
from core.images import to_unit

Images = npt.NDArray[np.floating[Any]]

GROUP = 64
"""Images drawn at a time, and stretched together by min-max."""


@dataclass(frozen=True)
class Way:
    """One way to draw."""

    weights: Literal["ema", "raw"] = "ema"
    clip: bool = True
    stop: bool = False
    """End the reverse loop at t = 1, as the original does."""
    scale: Literal["fixed", "min-max", "8 bits"] = "fixed"
    network: str = "baseline"


WAYS = {
    "ours": Way(),
    "(a) ends at t = 1": Way(stop=True),
    "(b) min-max over the batch": Way(scale="min-max"),
    "(c) no clipping": Way(clip=False),
    "(b) and (c)": Way(clip=False, scale="min-max"),
    "(d) no average": Way("raw"),
    "8 bits, rounded down": Way(scale="8 bits"),
    "(a), (c), (d), 8 bits": Way("raw", False, True, "8 bits"),
    "(a), (b), (c), (d)": Way("raw", False, True, "min-max"),
    "(e) our U-Net": Way(network="U-Net"),
}


def min_max(x: Images) -> Images:
    """Each group of GROUP images stretched by its own smallest and largest pixel."""
    groups = (x[start : start + GROUP] for start in range(0, len(x), GROUP))
    return np.concatenate([(group - group.min()) / (group.max() - group.min()) for group in groups])


def eight_bits(x: Images) -> Images:
    """The fixed scale in 256 levels, rounded down.

    Source: dome272/Diffusion-Models-pytorch, ddpm.py: `(x.clamp(-1, 1) + 1) / 2`, then `(x * 255).type(torch.uint8)`.
    """
    return (np.floor(to_unit(x) * 255) / 255).astype(x.dtype)


SCALES: dict[str, Callable[[Images], Images]] = {"fixed": to_unit, "min-max": min_max, "8 bits": eight_bits}


def spaced_levels(evaluations: int, T: int) -> npt.NDArray[np.int64]:
    """t = 0, and t = 1 to T - 1 evenly in its square root, ascending: dense where images get their fine structure.

    Args:
        evaluations: levels, from 3 to T.
        T: levels of the process.
    Raises:
        ValueError: evaluations out of range.
    """
    if not 3 <= evaluations <= T:
        raise ValueError(f"evaluations = {evaluations}: must be between 3 and process.timesteps = {T}")
    levels = np.round(1 + (T - 2) * np.linspace(0, 1, evaluations - 1) ** 2).astype(np.int64)
    return np.concatenate([[0], np.maximum(levels, np.arange(1, evaluations))])  # where crowded, every t


def reverse_rows(
    process: ProcessConfig,
    levels: npt.NDArray[np.int64],
    clip: bool,
    stop: bool,
    variance: Variance = "fixed_small",
) -> tuple[Row, ...]:
    """DDPM's rows on some levels of a process; with `stop` the original's end: none at t = 0, no noise after t = 1.

    Over all levels, not clipped and with variance fixed_large, they are the original's loop: for i from T - 1 to 1,
    x <- (x - beta_i / sqrt(1 - abar_i) eps) / sqrt(alpha_i), and + sqrt(beta_i) z where i > 1.

    Args:
        process: forward process and prediction type.
        levels: ascending t; 0 and 1 are the first two.
        clip: clip the predicted image to [-1, 1].
        stop: leave out the row at t = 0.
        variance: of the noise added.
    Source: dome272/Diffusion-Models-pytorch, ddpm.py, `Diffusion.sample`; Nichol and Dhariwal 2021, section 4 (levels
        left out).
    """
    signal = make_process(process).signal[levels]
    betas = -np.expm1(np.diff(2 * np.log(signal), prepend=0.0))  # 1 - abar / abar of the level before
    config = SamplingConfig("ddpm", len(levels), variance=variance, clip=clip)
    table = make_table(from_betas(betas, process), config)
    rows = tuple(dataclasses.replace(row, t=float(levels[int(row.t)])) for row in table.rows)
    return (*rows[:-2], dataclasses.replace(rows[-2], s=0.0)) if stop else rows
