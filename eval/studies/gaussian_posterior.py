"""Gaussian images, for which the posterior given a measurement is known: an oracle for posterior sampling.

The images of 4 x 4 pixels are N(mean, covariance) in the network's range [-1, 1], so that E[x_0 | x_t] is linear in
x_t, Cov[x_0 | x_t] does not depend on x_t, and p(x_0 | y) is Gaussian.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config import ProcessConfig, SamplingConfig
from core.diffusion.grids import Level
from core.diffusion.measurements import Blur, Downscale, Mask, Measurement, gaussian_psf
from core.diffusion.posterior import Observed, Posterior
from core.diffusion.process import make_process
from core.diffusion.samplers import grid_of, make_table
from core.diffusion.table import run
from core.images import intensity_and_slope

Array = NDArray[np.float64]
SIDE = 4
PIXELS = SIDE * SIDE
SHAPE = (SIDE, SIDE, 1)
PROCESS = make_process(ProcessConfig(prediction="v"))
MEASUREMENTS: dict[str, Measurement] = {
    "blur": Blur(gaussian_psf(1.0, (SIDE, SIDE))),
    "downscale": Downscale(2),
    "mask": Mask(np.arange(PIXELS).reshape(SIDE, SIDE) % 3 > 0),
}


def _covariance() -> Array:
    """Neighbouring pixels are alike: 0.3^2 exp(-distance / 2)."""
    rows, columns = np.divmod(np.arange(PIXELS), SIDE)
    distance = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    return np.asarray(0.3**2 * np.exp(-distance / 2))


MEAN, COVARIANCE = 0.3 * np.cos(np.arange(PIXELS)), _covariance()


def gain(level: Level) -> Array:
    """G of E[x_0 | x_t] = mean + G (x_t - signal mean)."""
    noised = level.signal**2 * COVARIANCE + level.noise**2 * np.eye(PIXELS)
    return np.asarray(level.signal * np.linalg.solve(noised, COVARIANCE).T)


def exact_covariance(level: Level) -> Array:
    """Cov[x_0 | x_t]."""
    return COVARIANCE - level.signal * gain(level) @ COVARIANCE


def network(levels: list[Level]) -> Callable[[Array, float, Callable[[Array], Array]], tuple[Array, Array]]:
    """The optimal network of the v-prediction at these levels, as core.diffusion.posterior takes it."""
    place = {level.t: level for level in levels}

    def pull_back(x: Array, t: float, v: Callable[[Array], Array]) -> tuple[Array, Array]:
        level, flat = place[t], x.reshape(len(x), PIXELS)
        # v = signal eps - noise x_0 with eps = (x_t - signal x_0) / noise; x_0 is affine in x_t.
        of_x, of_x_0 = level.signal / level.noise, -(level.signal**2) / level.noise - level.noise
        slope = of_x * np.eye(PIXELS) + of_x_0 * gain(level)
        x_0 = MEAN + (flat - level.signal * MEAN) @ gain(level).T
        output = (of_x * flat + of_x_0 * x_0).reshape(x.shape)
        return output, (v(output).reshape(len(x), PIXELS) @ slope).reshape(x.shape)

    return pull_back


@dataclass(frozen=True, eq=False)
class WithCovariance:
    """A measurement whose solve() takes a covariance matrix (D, D) of the pixels for `variance`."""

    inner: Measurement

    @property
    def valid(self) -> Any:
        """As the measurement's."""
        return self.inner.valid

    def forward(self, x: Array) -> Array:
        """A x."""
        return self.inner.forward(x)

    def adjoint(self, y: Array) -> Array:
        """A^T y."""
        return self.inner.adjoint(y)

    @cached_property
    def matrix(self) -> Array:
        """A, with a column a pixel."""
        return self.forward(np.eye(PIXELS).reshape(PIXELS, *SHAPE)).reshape(PIXELS, -1).T

    def solve(self, y: Array, variance: Array, noise: float) -> Array:
        """(A covariance A^T + noise^2)^-1 y."""
        system = self.matrix @ variance @ self.matrix.T + noise**2 * np.eye(len(self.matrix))
        return np.asarray(np.linalg.solve(system, y.reshape(len(y), -1).T).T.reshape(y.shape))


@dataclass(frozen=True, eq=False)
class Problem:
    """One measurement y of an image that is drawn from the Gaussian."""

    operator: Measurement
    noise: float = 0.05
    """Standard deviation of the noise of y, in intensity."""
    seed: int = 1
    """Seed of the image and of the noise of y."""

    @cached_property
    def y(self) -> Array:
        """The measurement, (1, h, w, 1)."""
        rng = np.random.default_rng(self.seed)
        image = rng.multivariate_normal(MEAN, COVARIANCE).reshape(1, *SHAPE)
        y = self.operator.forward((image + 1) / 2)
        return np.asarray(y + self.noise * self.operator.valid * rng.standard_normal(y.shape))

    @cached_property
    def posterior(self) -> tuple[Array, Array]:
        """Mean (D,) and covariance (D, D) of p(x_0 | y). The intensity is (x_0 + 1) / 2."""
        matrix = WithCovariance(self.operator).matrix / 2
        system = matrix @ COVARIANCE @ matrix.T + self.noise**2 * np.eye(len(matrix))
        weights = np.linalg.solve(system, matrix @ COVARIANCE).T
        residual = self.y.ravel() - matrix @ (1 + MEAN)
        return MEAN + weights @ residual, COVARIANCE - weights @ matrix @ COVARIANCE

    def observed(self, exact: bool = False, **how: Any) -> Observed:
        """The measurement with its method: with exact=True PiGDM takes the exact Cov[x_0 | x_t]."""
        found = Observed(self.operator, self.noise, intensity_and_slope, **how)
        if exact:
            # solve() is given variance times slope^2, and the slope of the intensity is 1 / 2.
            return dataclasses.replace(found, operator=WithCovariance(self.operator), variance=exact_covariance)
        return found

    def draw(self, observed: Observed, sampling: SamplingConfig, count: int, seed: int = 0) -> Array:
        """Draws from the posterior, (count, D)."""
        table, levels, rng = make_table(PROCESS, sampling), grid_of(PROCESS, sampling), np.random.default_rng(seed)
        guided = Posterior(observed, np.repeat(self.y, count, axis=0), network(levels), table.rows, levels)
        x_T, shape = rng.standard_normal((count, *SHAPE)), (count, *SHAPE)
        images = run(table, guided.network, x_T, lambda row: rng.standard_normal(shape), after=guided.after)
        return images.reshape(count, PIXELS)


def compare(draws: Array, mean: Array, covariance: Array) -> dict[str, float]:
    """How draws (N, D) differ from a Gaussian of known mean and covariance.

    Returns:
        error: root mean square over the directions of the mean's error in the Gaussian's deviations; sqrt(1 / N) for
            exact draws. variance: mean over the directions of the variance, over the Gaussian's. p_mean and
            p_covariance: of a chi-squared test each, of N (m - mean)^T covariance^-1 (m - mean) and of the likelihood
            ratio.
    Source: Anderson 2003, section 10.8.4: the likelihood ratio with Bartlett's correction.
    """
    from scipy import stats

    count, size = draws.shape
    # In coordinates in which the Gaussian has the covariance 1.
    white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - mean).T).T
    statistic = count * np.sum(white.mean(axis=0) ** 2)
    scatter = np.cov(white.T)
    ratio = (count - 1) * (np.trace(scatter) - np.linalg.slogdet(scatter)[1] - size)
    corrected = ratio * (1 - (2 * size + 1 - 2 / (size + 1)) / (6 * (count - 1)))
    return {
        "error": float(np.sqrt(statistic / count / size)),
        "variance": float(np.trace(scatter) / size),
        "p_mean": float(stats.chi2.sf(statistic, size)),
        "p_covariance": float(stats.chi2.sf(corrected, size * (size + 1) / 2)),
    }
