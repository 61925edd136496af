"""From a configured sampler to its table. One file a family: ancestral, dpm_solver, unipc (and iPNDM), heun (and Euler).

Float64 NumPy; imports no framework. core.diffusion.table says what a table is and runs one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from core.config import Sampler, SamplingConfig
from core.diffusion import ancestral, dpm_solver, heun, unipc
from core.diffusion.grids import CLEAN, Level, level_of, sampling_grid, start_of
from core.diffusion.process import Process, conversions
from core.diffusion.table import Row, SamplingTable, Step

LINEAR: dict[str, Callable[[list[Level], SamplingConfig], list[Step]]] = {
    "ddpm": ancestral.ddpm,
    "ddim": ancestral.ddim,
    "dpmsolver++": dpm_solver.dpmsolver_2m,
    "dpmsolver++2s": dpm_solver.dpmsolver_2s,
    "dpmsolver++3m": dpm_solver.dpmsolver_3m,
    "sde-dpmsolver++": dpm_solver.sde_dpmsolver_2m,
    "unipc": unipc.unipc,
    "ipndm": unipc.ipndm,
}
CHURNED = {"euler": heun.euler, "heun": heun.heun, "flow_euler": heun.flow_euler, "flow_heun": heun.flow_heun}
SAMPLERS = (*LINEAR, *CHURNED)
TWICE = ("heun", "flow_heun")
"""Samplers that evaluate the network twice a step, but for the last."""
# Their last step is of order 1, and should be short: as diffusers, t = 0 is left out of leading and linspace.
_WITHOUT_ZERO = ("dpmsolver++", "dpmsolver++2s", "dpmsolver++3m", "sde-dpmsolver++", "unipc")
OPTIONS: dict[str, tuple[str, ...]] = {
    "eta": ("ddim",),
    "variance": ("ddpm",),
    "order": ("unipc", "ipndm"),
    "unipc_variant": ("unipc",),
    "churn": ("euler", "heun"),
    "churn_min": ("euler", "heun"),
    "churn_max": ("euler", "heun"),
    "churn_noise": ("euler", "heun"),
}
"""Options that belong to some samplers only."""
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(SamplingConfig)}


def with_sampler(config: SamplingConfig, sampler: Sampler) -> SamplingConfig:
    """The configuration with another sampler: options that it does not have go back to their defaults."""
    lost: dict[str, Any] = {name: _DEFAULTS[name] for name, owners in OPTIONS.items() if sampler not in owners}
    return dataclasses.replace(config, sampler=sampler, **lost)


def steps_of(config: SamplingConfig) -> int:
    """Points of the grid: config.steps, or as many as config.nfe evaluations pay for (one is left over where heun is asked
    for an even number)."""
    if config.nfe == 0:
        return config.steps
    return (config.nfe + 1) // 2 if config.sampler in TWICE else config.nfe


def make_table(process: Process, config: SamplingConfig) -> SamplingTable:
    """The table of a configured sampler.

    Args:
        process: forward process and prediction type.
        config: what to sample with; batch_size is not read.
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
    return sampling_grid(process, config.spacing, steps_of(config), config.sampler in _WITHOUT_ZERO)


def check_options(config: SamplingConfig) -> None:
    """Refuse an unknown sampler, and options that belong to another one.

    Raises:
        ValueError: naming the samplers that have the option.
    """
    if config.sampler not in SAMPLERS:
        raise ValueError(f"sampling.sampler = {config.sampler!r}: must be one of {', '.join(SAMPLERS)}")
    for name, owners in OPTIONS.items():
        value = getattr(config, name)
        if value != _DEFAULTS[name] and config.sampler not in owners:
            raise ValueError(
                f"sampling.{name} = {value!r}: must be {_DEFAULTS[name]!r} with sampler {config.sampler}; "
                f"only {' and '.join(owners)} {'have' if len(owners) > 1 else 'has'} it"
            )
    if config.sampler == "unipc" and config.order > 3:
        raise ValueError(f"sampling.order = {config.order}: must be at most 3 with sampler unipc")


def make_steps(process: Process, levels: list[Level], config: SamplingConfig) -> tuple[list[Step], float]:
    """The steps of a sampler between given levels, and the standard deviation of the first state."""
    start = start_of(process, levels[0])
    if config.sampler in LINEAR:
        return LINEAR[config.sampler](levels, config), start
    return CHURNED[config.sampler](levels, config, lambda value: level_of(process, value), start)


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
