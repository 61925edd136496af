"""The timesteps of each optimiser step: a function of (seed, step), and with importance sampling of past losses.

Uniform sampling draws integers. Every other way inverts a cumulative distribution over the timesteps at keyed uniform
numbers, so that neither the framework nor accumulation changes the timesteps.
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
"""Losses kept for each timestep; Nichol & Dhariwal 2021, section 3.3."""
UNIFORM_SHARE = 0.001
"""Share of importance sampling that stays uniform, so that no timestep has probability 0; as in the authors' code."""


class LevelSampler:
    """Draws the timesteps of every optimiser step of a run.

    Args:
        config: timestep_sampling, stratified, p_mean, p_std, seed and batch_size are read.
        process: the forward process.
        among: the timesteps of a distillation, drawn equally often; None draws from all timesteps.
    """

    def __init__(self, config: TrainingConfig, process: Process, among: NDArray[np.integer[Any]] | None = None) -> None:
        self.config, self.count, self.among = config, process.timesteps, among
        self.importance = config.timestep_sampling == "importance"
        self._fixed = np.full(self.count, 1 / self.count)
        if config.timestep_sampling == "log_normal":
            self._fixed = log_normal(process, config.p_mean, config.p_std)
        if among is not None:
            self._fixed = np.isin(np.arange(self.count), among) / len(among)
        self.history = np.zeros((self.count, HISTORY))
        self.counts = np.zeros(self.count, np.int64)

    def probabilities(self) -> Array:
        """Probabilities of the timesteps, (T,). Importance sampling is uniform until every timestep has its losses.

        Source: Nichol & Dhariwal 2021, eq. 18: p_t as the root of the mean square of timestep t's last losses.
        """
        if not self.importance or self.counts.min() < HISTORY:
            return self._fixed
        root = np.sqrt(np.mean(self.history**2, axis=1))
        total = root.sum()
        return self._fixed if total == 0 else (1 - UNIFORM_SHARE) * root / total + UNIFORM_SHARE / self.count

    def draw(self, step: int) -> tuple[NDArray[np.int64], Array]:
        """The timesteps of an optimiser step (0-based), and weights that keep the mean loss that of uniform sampling.

        Returns:
            Timesteps (B,) int64 of the global batch, and weights (B,) float64: 1 / (T p) with importance sampling,
            otherwise 1.
        """
        config, samples = self.config, range(self.config.batch_size)
        if config.timestep_sampling == "uniform" and not config.stratified and self.among is None:
            return integers(config.seed, "training_t", samples, step, self.count), np.ones(len(samples))
        if config.stratified:
            # Kingma et al. 2021, appendix I.1: one uniform number a step; the batch is evenly spaced from it.
            u = (generator(config.seed, "training_t", 0, step).random() + np.arange(len(samples)) / len(samples)) % 1
        else:
            u = np.array([generator(config.seed, "training_t", i, step).random() for i in samples])
        p = self.probabilities()
        t = np.minimum(np.searchsorted(np.cumsum(p), u, side="right"), self.count - 1)
        return t.astype(np.int64), 1 / (self.count * p[t]) if self.importance else np.ones(len(samples))

    def note(self, batch: Mapping[str, NDArray[Any]], metrics: Mapping[str, Any]) -> None:
        """Keep the losses of an optimiser step for importance sampling, except those that are not finite.

        Args:
            batch: `t` and `importance` (B,) of the global batch are read.
            metrics: a trainer's metrics, whose `losses` (B,) are weighted by `importance`.
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
        """Arrays for a checkpoint: `timesteps/history` (T, 10) and `timesteps/counts` (T,), for importance sampling."""
        if not self.importance:
            return {}
        return {"timesteps/history": self.history.copy(), "timesteps/counts": self.counts.copy()}

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore a state().

        Raises:
            ValueError: the losses are missing, or are those of another number of timesteps.
        """
        for name, value in self.state().items():
            if name not in state or state[name].shape != value.shape:
                found = state[name].shape if name in state else "missing"
                raise ValueError(f"{name}: {found}; importance sampling continues from losses of shape {value.shape}")
            if state[name].dtype != value.dtype or not np.isfinite(state[name]).all():
                raise ValueError(f"{name}: must be finite, of {value.dtype}")
        if self.importance:
            if not 0 <= state["timesteps/counts"].min() <= state["timesteps/counts"].max() <= HISTORY:
                raise ValueError(f"timesteps/counts: must be from 0 to {HISTORY}")
            self.history, self.counts = state["timesteps/history"].copy(), state["timesteps/counts"].copy()


def log_normal(process: Process, mean: float, deviation: float) -> Array:
    """Probabilities of the timesteps for a normal distribution of log sigma, where sigma = noise / signal.

    Args:
        process: the forward process. A timestep stands for every log sigma that is nearest to its own.
        mean: mean of log sigma.
        deviation: standard deviation of log sigma.
    Returns:
        (T,), of sum 1; 0 for a timestep without signal.
    Source: Karras et al. 2022, table 1 (training); on a flow it is the logit-normal density of Esser et al. 2024,
        eq. 19.
    """
    with np.errstate(divide="ignore"):
        log_sigma = np.log(process.noise) - np.log(process.signal)
    edges = [-math.inf, *(log_sigma[1:] + log_sigma[:-1]) / 2, math.inf]
    below = [0.5 * math.erfc((mean - edge) / (deviation * math.sqrt(2))) for edge in edges]
    return np.diff(below)
