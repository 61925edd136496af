"""A network that multiplies x by the mean of its first kernel, run by the reference executor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from core.config import ModelConfig
from core.diffusion import table as tables
from core.diffusion.table import After, SamplingTable
from core.inference.conditioning import Condition
from core.inference.sampling import Vector
from tests.numpy_impl.pace import PACE

Function = Callable[..., np.ndarray]


class Network:
    """Any function (x, t, **condition) -> output on arrays (B, H, W, C)."""

    def __init__(self, module: Function) -> None:
        self.module: Any = module
        self.asynchronous = False

    def bind(self, condition: Condition | None = None, evaluations: int = 0) -> BoundNetwork:
        """The function with these arrays as keywords."""
        return BoundNetwork(self.module, dict(condition or {}))

    def noise(self, key: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Noise of NumPy's generator."""
        return np.random.default_rng(key).standard_normal(shape).astype(dtype)


class BoundNetwork:
    """A function (x, t) -> output, and what core asks of it."""

    def __init__(self, module: Function, given: dict[str, np.ndarray]) -> None:
        self.module, self.given = module, given

    def __call__(self, x: np.ndarray, t: Any) -> np.ndarray:
        """The output."""
        return np.asarray(self.module(x, t, **self.given))

    def run(
        self,
        table: SamplingTable,
        x_T: np.ndarray,
        noise: Callable[[int], np.ndarray],
        weak: BoundNetwork | None = None,
        after: After | None = None,
    ) -> np.ndarray:
        """Run a table; where the twin stands for another, images that depend on the noise x_T alone."""
        if PACE.seconds:
            PACE.act("sample")
            return np.asarray(np.tanh(x_T) / 2 + 2 * PACE.shift, x_T.dtype)
        guided = None if weak is None else lambda x, t: (self(x, t), weak(x, t))
        return tables.run(table, self, x_T, noise, guided, after).astype(x_T.dtype)

    def evaluate(self, x: np.ndarray, t: np.ndarray) -> np.ndarray:
        """The output."""
        return self(x, t)

    def vector_jacobian(self, x: np.ndarray, t: np.ndarray, v: Vector) -> tuple[np.ndarray, np.ndarray]:
        """Of a linear function: the function itself is its own Jacobian, and symmetric."""
        output = self(x, t)
        u = v(output) if callable(v) else v
        return output, self(u, t) - self(np.zeros_like(u), t)


def scaled(weights: dict[str, np.ndarray]) -> Function:
    """x -> k x, k being the mean of the kernel whose name is first."""
    k = weights[min(name for name in weights if name.endswith(".weight"))].mean()

    def network(x: np.ndarray, t: Any, **condition: np.ndarray) -> np.ndarray:
        return np.asarray(k * x)

    return network


def make_network(
    model: ModelConfig,
    weights: dict[str, np.ndarray],
    dtype: str = "float32",
    device: str = "auto",
    compiled: bool | None = None,
) -> Network:
    """The network with given weights."""
    return Network(scaled(weights))


def watching(note: Callable[[int, np.ndarray, np.ndarray], object]) -> After:
    """A hook that notes (row, x, x_0) and changes nothing."""

    def after(row: int, x: np.ndarray, x_0: np.ndarray) -> np.ndarray:
        note(row, x, x_0)
        return x

    return after
