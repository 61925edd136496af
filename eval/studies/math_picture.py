"""The study `math_picture`: schedules, grids, and samplers on data with a known flow, drawn for docs/math.md."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from core.config import ProcessConfig, Sampler, SamplingConfig, Spacing
from core.diffusion.grids import sampling_grid
from core.diffusion.process import Process, make_process
from core.diffusion.samplers import make_table
from core.diffusion.table import run
from core.files import write_atomically
from eval.verbs import main

Array = NDArray[np.float64]
CENTRES, DEVIATION = np.array([-0.6, 0.2, 0.7]), 0.05
"""The data: an even mixture of Gaussians on a line."""
PROCESS = ProcessConfig(schedule="cosine", prediction="x0")
SHOWN: tuple[tuple[Sampler, int, str], ...] = (("ddim", 8, "#f97316"), ("dpmsolver++", 8, "#3b82f6"))
FLOW_STEPS = 500


def optimal(process: Process, x: Array, t: float) -> Array:
    """E[x_0 | x_t], which the optimal network of prediction x0 puts out: Tweedie's mean over the mixture's parts."""
    signal, noise = np.interp(t, process.time, process.signal), np.interp(t, process.time, process.noise)
    variance = signal**2 * DEVIATION**2 + noise**2
    log_weights = -0.5 * (x - signal * CENTRES) ** 2 / variance
    weights = np.exp(log_weights - log_weights.max(axis=-1, keepdims=True))
    means = CENTRES + signal * DEVIATION**2 / variance * (x - signal * CENTRES)
    mean: Array = (weights * means).sum(axis=-1, keepdims=True) / weights.sum(axis=-1, keepdims=True)
    return mean


def trajectories(process: Process, sampler: Sampler, steps: int, start: Array) -> tuple[Array, Array]:
    """Share of the noise levels still to go, (steps + 1,), and the states there, (steps + 1, B)."""
    table, states = make_table(process, SamplingConfig(sampler, steps, clip=False)), [start[:, 0]]

    def after(row: int, x: Array, x_0: Array) -> Array:
        states.append(x[:, 0].copy())
        return x

    run(table, lambda x, t: optimal(process, x, t), start, np.zeros_like, after=after)
    times = np.array([*(row.t + 1 for row in table.rows), 0]) / process.config.timesteps
    return times, np.array(states)


def draw_schedules(axes: Any) -> None:
    """log10 SNR over t."""
    for name in ("linear", "cosine", "sigmoid", "flow", "edm"):
        prediction = {"flow": "flow", "edm": "edm"}.get(name, "v")
        process = make_process(ProcessConfig(schedule=name, prediction=prediction))  # type: ignore[arg-type]
        held = process.signal > 0
        share = np.arange(len(process.signal))[held] / (len(process.signal) - 1)
        axes.plot(share, 2 * np.log10(process.signal[held] / process.noise[held]), label=name)
    axes.set(xlabel="t / (T - 1)", ylabel="log10 SNR", ylim=(-6, 6), title="Schedules: how fast noise comes in")
    axes.legend(frameon=False, fontsize=8)


def draw_grids(axes: Any, process: Process) -> None:
    """Where twelve evaluations lie, in log10 SNR."""
    names = get_args(Spacing)
    for row, name in enumerate(reversed(names)):
        levels = sampling_grid(process, name, 12)
        axes.plot([2 * level.half_log_snr / np.log(10) for level in levels], [row] * len(levels), "o", ms=4)
    axes.set(yticks=range(len(names)), yticklabels=names[::-1], xlabel="log10 SNR (noise to image)")
    axes.set(title="Grids: where 12 evaluations lie (cosine)")


def draw_flow(axes: Any, process: Process) -> None:
    """The exact flow from noise to data, and two samplers of eight evaluations beside it."""
    start = np.linspace(-1.9, 1.9, 9)[:, None]
    times, exact = trajectories(process, "dpmsolver++3m", FLOW_STEPS, start)
    axes.plot(times, exact, color="#94a3b8", lw=2.5, label=["the exact flow", *[None] * (len(start) - 1)])
    for sampler, steps, colour in SHOWN:
        at, states = trajectories(process, sampler, steps, start)
        label = f"{sampler}, {steps} evaluations: {np.abs(states[-1] - exact[-1]).mean():.3f} off"
        axes.plot(at, states, "o-", color=colour, lw=0.8, ms=3, label=[label, *[None] * (len(start) - 1)])
    axes.set(
        xlim=(1.02, -0.02),
        ylim=(-2.1, 3.4),
        xlabel="t / T (noise to image)",
        ylabel="x",
        title="Samplers: three Gaussians on a line",
    )
    axes.legend(frameon=False, fontsize=8, loc="upper center")


@dataclass(frozen=True, kw_only=True)
class MathPicture:
    """Draw docs/math.png: noise schedules, grids of timesteps, and samplers beside the exact flow.

    Examples:
      python -m eval.studies.math_picture
    """

    out: str = "docs/math.png"
    """File for the picture, PNG."""

    def execute(self) -> str:
        """Draw the three panels."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(13.5, 3.9), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        process = make_process(PROCESS)
        draw_schedules(left)
        draw_grids(middle, process)
        draw_flow(right, process)
        for axes in (left, middle, right):
            axes.grid(alpha=0.15)
            axes.spines[["top", "right"]].set_visible(False)
        write_atomically(self.out, lambda file: figure.savefig(file, format="png", dpi=110))
        return f"wrote {self.out}"


if __name__ == "__main__":
    sys.exit(main(MathPicture, "python -m eval.studies.math_picture"))
