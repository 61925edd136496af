"""Posterior sampling: a sampler's table run so that its images fit a measurement y = A image + s noise.

    x0_hat = E[x_0 | x_t];   J = d x0_hat / d x_t;   image = f(x0_hat), f being from the network's range to intensity

Both methods follow the gradient of log p(y | x_t), which needs one vector-Jacobian product of the network a row:

    DPS     x_{t-1} <- x_{t-1} - step * J^T d |y - A f(x0_hat)|^2 / d x0_hat / |y - A f(x0_hat)|
    PiGDM   x0_hat <- x0_hat + noise^2 / signal * J^T D A^T (A D Cov D A^T + s^2)^-1 (y - A f(x0_hat)),  D = f'(x0_hat)

PiGDM's is Tweedie's formula for the posterior mean E[x_0 | x_t, y], where p(x_0 | x_t) is taken as N(x0_hat, Cov).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.diffusion.grids import Level
from core.diffusion.measurements import Measurement
from core.diffusion.table import Row

Array = NDArray[Any]
Method = Literal["pigdm", "dps"]
PullBack = Callable[[Array, float, Callable[[Array], Array]], tuple[Array, Array]]
"""A network with its product from the left: (x, t, v of the output) -> output, v^T d output / d x."""
Intensity = Callable[[Array], tuple[Array, Any]]
"""From the network's range to intensity: x -> f(x) and f'(x)."""


def unit_variance(level: Level) -> float:
    """Variance of a pixel of x_0 given x_t, for data of independent pixels N(0, 1): r_t^2 of the paper.

    Source: Song et al. 2023 (PiGDM), section 3.2 and appendix A.3: sigma^2 / (1 + sigma^2).
    """
    return level.noise**2 / (level.signal**2 + level.noise**2)


@dataclass(frozen=True)
class Observed:
    """What was measured of the images, and how a sampler follows it."""

    operator: Measurement
    noise: float
    """Standard deviation of the noise of y, in intensity."""
    intensity: Intensity
    method: Method = "pigdm"
    step: float = 1.0
    """dps: zeta', the length of its step."""
    variance: Callable[[Level], Any] = unit_variance
    """pigdm: variance of x_0 given x_t at a level, as the operator's solve() takes it."""

    def residual(self, y: Array, image: Array) -> Array:
        """y - A image, and 0 where nothing is measured."""
        return np.asarray(self.operator.valid * (y - self.operator.forward(image)))

    def pull(self, y: Array, x_0: Array, level: Level) -> Array:
        """The vector that the Jacobian J^T is applied to, for predicted images x_0 (B, H, W, C) and measurements y."""
        image, slope = self.intensity(x_0)
        residual = self.residual(y, image)
        if self.method == "pigdm":
            weighed = self.operator.solve(residual, self.variance(level) * slope**2, self.noise)
            return np.asarray(slope * self.operator.adjoint(weighed))
        # Chung et al. 2023 measure the residual in the range [-1, 1], in which it is twice as large.
        size = 2 * np.sqrt(np.sum(residual**2, axis=(1, 2, 3), keepdims=True))
        return np.asarray(-2 * 2**2 * slope * self.operator.adjoint(residual) / np.maximum(size, 1e-12))


class Posterior:
    """A network and the hook after each row, for one batch of measurements; core.diffusion.table.run() takes both.

    Args:
        observed: the measurement and the method.
        y: (B, h, w, C) measurements.
        pull_back: the network.
        rows: of the table of a sampler that evaluates the network once a step.
        levels: the level of each row.
    Source: Chung et al. 2023 (DPS), algorithm 1; Song et al. 2023 (PiGDM), eq. 7-8. The paper multiplies PiGDM's
        gradient by r_t^2 sqrt(alpha_t); here it has the factor noise^2 / signal, by which the draws are exact where
        Cov is.
    """

    def __init__(
        self, observed: Observed, y: Array, pull_back: PullBack, rows: Sequence[Row], levels: Sequence[Level]
    ) -> None:
        self.observed, self.y, self.pull_back = observed, np.asarray(y, np.float64), pull_back
        self.places = iter(zip(rows, levels, strict=True))
        self.shift: Any = 0.0

    def network(self, x: Array, t: float) -> Array:
        """The output for the next row; with PiGDM the one that means E[x_0 | x_t, y]."""
        row, level = next(self.places)
        channels = x.shape[-1]

        def pulled(output: Array) -> Array:
            x_0 = row.p * x.astype(np.float64) + row.q * output[..., :channels]
            v = np.zeros(output.shape)
            v[..., :channels] = self.observed.pull(self.y, x_0, level)
            direct.append(v[..., :channels])
            return v.astype(x.dtype)

        direct: list[Array] = []
        output, product = self.pull_back(x, t, pulled)
        gradient = row.p * direct[0] + row.q * product.astype(np.float64)
        if self.observed.method == "dps":
            self.shift = -self.observed.step * gradient
        elif level.signal > 0:  # x_t without signal says nothing of x_0, and J is 0 there
            output = output.copy()
            output[..., :channels] += (level.noise**2 / (level.signal * row.q) * gradient).astype(x.dtype)
        return output

    def after(self, row: int, x: Array, x_0: Array) -> Array:
        """The state after a row; DPS moves it."""
        moved: Array = x + np.asarray(self.shift, x.dtype)
        return moved
