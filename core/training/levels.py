"""At which noise levels an optimiser step trains, a function of (seed, step), and of past losses where they decide.

All ways but the plain uniform one are the inverse of a cumulative distribution over the levels at uniform numbers, which
are keyed: neither the framework nor accumulation changes them. This module imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config import TrainingConfig
from core.diffusion.process import Process
from core.random import generator, integers

Array = NDArray[np.float64]

HISTORY = 10
"""Losses kept a level; Nichol & Dhariwal 2021, section 3.3."""
UNIFORM_SHARE = 0.001
"""Share of importance sampling that stays uniform, so that no level is given up; as in the authors' code."""


class LevelSampler:
    """Draws the levels of every step of a run.

    Args:
        config: timestep_sampling, stratified, p_mean, p_std, seed and batch_size are read.
        process: the levels.
    """

    def __init__(self, config: TrainingConfig, process: Process) -> None:
        self.config, self.count = config, process.timesteps
        self.importance = config.timestep_sampling == "importance"
        self._fixed = log_normal(process, config.p_mean, config.p_std) if config.timestep_sampling == "log_normal" else np.full(self.count, 1 / self.count)  # fmt: skip
        self.history = np.zeros((self.count, HISTORY))
        self.counts = np.zeros(self.count, np.int64)

    def probabilities(self) -> Array:
        """Of each level, (T,): those of importance sampling once every level has its losses, and uniform until then.

        Source: Nichol & Dhariwal 2021, eq. 18: p_t as the root of the mean square of level t's last losses.
        """
        if not self.importance or self.counts.min() < HISTORY:
            return self._fixed
        root = np.sqrt(np.mean(self.history**2, axis=1))
        total = root.sum()
        return self._fixed if total == 0 else (1 - UNIFORM_SHARE) * root / total + UNIFORM_SHARE / self.count

    def draw(self, step: int) -> tuple[NDArray[np.int64], Array]:
        """Levels of a step's global batch, and 1 / (T p) of each, which keeps the mean loss that of uniform sampling.

        Returns:
            (B,) int64 and (B,) float64; the latter is 1 but for importance sampling.
        """
        config, samples = self.config, range(self.config.batch_size)
        if config.timestep_sampling == "uniform" and not config.stratified:
            return integers(config.seed, "training_t", samples, step, self.count), np.ones(len(samples))
        if config.stratified:
            # Kingma et al. 2021, appendix I.1: one number a step, and the batch in even steps from it.
            u = (generator(config.seed, "training_t", 0, step).random() + np.arange(len(samples)) / len(samples)) % 1
        else:
            u = np.array([generator(config.seed, "training_t", i, step).random() for i in samples])
        p = self.probabilities()
        t = np.minimum(np.searchsorted(np.cumsum(p), u, side="right"), self.count - 1)
        return t.astype(np.int64), 1 / (self.count * p[t]) if self.importance else np.ones(len(samples))

    def note(self, batch: Mapping[str, NDArray[Any]], metrics: Mapping[str, Any]) -> None:
        """Remember the losses of a step where importance sampling needs them; those that are not finite are left out.

        Args:
            batch: `t` and `importance` (B,) are read.
            metrics: a trainer's, whose `losses` (B,) are weighted by `importance`.
        """
        if not self.importance:
            return
        losses = np.asarray(metrics["losses"], np.float64) / batch["importance"]
        for t, loss in zip(batch["t"], losses, strict=True):
            if math.isfinite(loss):
                if self.counts[t] == HISTORY:
                    self.history[t] = np.roll(self.history[t], -1)
                self.counts[t] = min(self.counts[t] + 1, HISTORY)
                self.history[t, self.counts[t] - 1] = loss

    def state(self) -> dict[str, NDArray[Any]]:
        """What a checkpoint keeps: `timesteps/history` (T, 10) and `timesteps/counts` (T,), or nothing."""
        return {"timesteps/history": self.history.copy(), "timesteps/counts": self.counts.copy()} if self.importance else {}  # fmt: skip

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go back to a state.

        Raises:
            ValueError: losses missing, or of another number of levels.
        """
        for name, value in self.state().items():
            if name not in state or state[name].shape != value.shape:
                found = state[name].shape if name in state else "missing"
                raise ValueError(f"{name}: {found}; importance sampling goes on from losses of shape {value.shape}")
        if self.importance:
            self.history, self.counts = state["timesteps/history"].copy(), state["timesteps/counts"].copy()


def log_normal(process: Process, mean: float, deviation: float) -> Array:
    """Probabilities of the levels where log sigma, sigma = noise / signal, is normal.

    Args:
        process: the levels; each stands for what is nearer to it in log sigma than to its neighbours.
        mean, deviation: of log sigma.
    Returns:
        (T,), of sum 1; 0 for a level without signal.
    Source: Karras et al. 2022, table 1 (training); on a flow it is the logit-normal density of Esser et al. 2024, eq. 19.
    """
    with np.errstate(divide="ignore"):
        log_sigma = np.log(process.noise) - np.log(process.signal)
    edges = [-math.inf, *(log_sigma[1:] + log_sigma[:-1]) / 2, math.inf]
    below = [0.5 * math.erfc((mean - edge) / (deviation * math.sqrt(2))) for edge in edges]
    return np.diff(below)
