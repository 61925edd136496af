"""From a configured sampler to its table: one row a sampler, one file a family of samplers.

core.diffusion.table says what a table is, and runs one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from core.config import Sampler, SamplingConfig
from core.diffusion import ancestral, dpm_solver, heun, unipc
from core.diffusion.grids import CLEAN, Level, level_of, sampling_grid, start_of
from core.diffusion.predictions import conversions
from core.diffusion.process import Process
from core.diffusion.table import Row, SamplingTable, Step

Steps = Callable[[Process, list[Level], SamplingConfig], tuple[list[Step], float]]
"""The steps between levels, the last being where the grid ends, and the standard deviation of the first state."""


@dataclass(frozen=True)
class SamplerRow:
    """What there is to know of a sampler."""

    steps: Steps
    options: tuple[str, ...] = ()
    """Fields of SamplingConfig that this sampler reads and most others do not have."""
    evaluations: int = 1
    """Evaluations of the network a step; the last step takes one."""
    needs_signal: bool = False
    """It steps in sigma = noise / signal, which is infinite at a level without signal."""
    leaves_zero_out: bool = False
    """Leading and linspace grids end above t = 0, as in diffusers: the last step is of order 1 and should be short."""
    keeps_image_alone: bool = False
    """Its state is the image and nothing else, so that the image may be changed between rows."""


def _plain(steps: Callable[[list[Level], SamplingConfig], list[Step]]) -> Steps:
    return lambda process, levels, config: (steps(levels, config), start_of(process, levels[0]))


def _churned(
    steps: Callable[[list[Level], SamplingConfig, Callable[[float], Level], float], tuple[list[Step], float]],
) -> Steps:
    return lambda process, levels, config: steps(
        levels, config, partial(level_of, process), start_of(process, levels[0])
    )


_CHURN = ("churn", "churn_min", "churn_max", "churn_noise")
SAMPLERS: dict[str, SamplerRow] = {
    "ddpm": SamplerRow(_plain(ancestral.ddpm), ("variance",), keeps_image_alone=True),
    "ddim": SamplerRow(_plain(ancestral.ddim), ("eta",), keeps_image_alone=True),
    "dpmsolver++": SamplerRow(_plain(dpm_solver.dpmsolver_2m), leaves_zero_out=True),
    "dpmsolver++2s": SamplerRow(_plain(dpm_solver.dpmsolver_2s), leaves_zero_out=True),
    "dpmsolver++3m": SamplerRow(_plain(dpm_solver.dpmsolver_3m), leaves_zero_out=True),
    "sde-dpmsolver++": SamplerRow(_plain(dpm_solver.sde_dpmsolver_2m), leaves_zero_out=True),
    "unipc": SamplerRow(_plain(unipc.unipc), ("order", "unipc_variant"), leaves_zero_out=True),
    "ipndm": SamplerRow(_plain(unipc.ipndm), ("order",)),
    "euler": SamplerRow(_churned(heun.euler), _CHURN, needs_signal=True),
    "heun": SamplerRow(_churned(heun.heun), _CHURN, evaluations=2, needs_signal=True),
    "flow_euler": SamplerRow(_plain(heun.flow_euler)),
    "flow_heun": SamplerRow(_plain(heun.flow_heun), evaluations=2),
}
"""A new sampler: the steps in its family's file, a row here, and its name in core.config.sampling.Sampler."""
_DEFAULTS: dict[str, Any] = {
    name: field.default
    for row in SAMPLERS.values()
    for name in row.options
    for field in dataclasses.fields(SamplingConfig)
    if field.name == name
}


def with_sampler(config: SamplingConfig, sampler: Sampler) -> SamplingConfig:
    """The configuration with another sampler: options that it does not have go back to their defaults."""
    lost = {name: default for name, default in _DEFAULTS.items() if name not in SAMPLERS[sampler].options}
    return dataclasses.replace(config, sampler=sampler, **lost)


def with_options(config: SamplingConfig, given: Mapping[str, Any]) -> SamplingConfig:
    """The configuration with some options changed.

    Given steps take the place of nfe; a given sampler comes with its own defaults.
    """
    if given.get("sampler"):
        config = with_sampler(config, given["sampler"])
    return dataclasses.replace(config, **({"nfe": 0} if given.get("steps") else {}) | dict(given))


def steps_of(config: SamplingConfig) -> int:
    """Points of the grid: config.steps, or the most that config.nfe evaluations allow.

    A sampler of two evaluations a step leaves one unused where nfe is even.
    """
    evaluations = SAMPLERS[config.sampler].evaluations
    return (config.nfe + evaluations - 1) // evaluations if config.nfe else config.steps


def make_table(process: Process, config: SamplingConfig) -> SamplingTable:
    """The table of a configured sampler.

    Args:
        process: forward process and prediction type.
        config: the sampler and its options; batch_size is not read.
    Returns:
        A row for every evaluation of the network. Each step goes to the next grid point, the last to the clean image,
        without noise.
    Raises:
        ValueError: options that do not go together, more steps than levels, or neighbouring levels that are equal.
    Source: the functions of each family name theirs.
    """
    check_options(config)
    process.config.check_variance(config.variance)
    steps, start = make_steps(process, [*grid_of(process, config), CLEAN], config)
    return table_of(process, steps, config, start)


def grid_of(process: Process, config: SamplingConfig) -> list[Level]:
    """The levels at which a configured sampler evaluates the network, without the clean image."""
    return sampling_grid(process, config.spacing, steps_of(config), SAMPLERS[config.sampler].leaves_zero_out)


def check_options(config: SamplingConfig) -> None:
    """Refuse an unknown sampler, and options that belong to another one.

    Raises:
        ValueError: naming the samplers that have the option.
    """
    if config.sampler not in SAMPLERS:
        raise ValueError(f"sampling.sampler = {config.sampler!r}: must be one of {', '.join(SAMPLERS)}")
    for name, default in _DEFAULTS.items():
        value = getattr(config, name)
        if value != default and name not in SAMPLERS[config.sampler].options:
            owners = [sampler for sampler, row in SAMPLERS.items() if name in row.options]
            raise ValueError(
                f"sampling.{name} = {value!r}: must be {default!r} with sampler {config.sampler}; "
                f"only {' and '.join(owners)} {'have' if len(owners) > 1 else 'has'} it"
            )


def make_steps(process: Process, levels: list[Level], config: SamplingConfig) -> tuple[list[Step], float]:
    """The steps of a sampler between given levels, and the standard deviation of the first state."""
    row = SAMPLERS[config.sampler]
    if row.needs_signal and levels[0].signal == 0:
        others = [sampler for sampler, other in SAMPLERS.items() if not other.needs_signal]
        raise ValueError(
            f"sampling.sampler = {config.sampler!r}: sigma is infinite at a level without signal; "
            f"use one of {', '.join(others)}"
        )
    return row.steps(process, levels, config)


def guidance_at(level: Level, config: SamplingConfig) -> float:
    """Guidance at a level: config.guidance where sigma = noise / signal lies in (guidance_min, guidance_max], else 1.

    Source: Kynkäänniemi et al. 2024, the interval of guidance.
    """
    above = level.noise > config.guidance_min * level.signal
    below = config.guidance_max == 0 or level.noise <= config.guidance_max * level.signal
    return config.guidance if above and below else 1.0


def table_of(process: Process, steps: list[Step], config: SamplingConfig, start: float = 1.0) -> SamplingTable:
    """Steps as rows: with p and q of the process's prediction at each level."""
    signal, noise = (np.array([getattr(step.level, name) for step in steps]) for name in ("signal", "noise"))
    given = conversions(signal, noise, process.config)
    columns = (given["x0_from_xt"].tolist(), given["x0_from_output"].tolist())
    rows = tuple(
        Row(s.level.t, p, q, s.matrix, s.s, s.s_large, guidance_at(s.level, config))
        for s, p, q in zip(steps, *columns, strict=True)
    )
    return SamplingTable(rows, config.clip, config.sampler, start, config.dynamic_threshold)
