"""The sampling loop of networks that are evaluated on NumPy arrays: TensorFlow's and ONNX Runtime's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self, TypeVar

import numpy as np

from core.diffusion import table as tables
from core.diffusion.table import After, SamplingTable
from core.inference.conditioning import Condition
from core.inference.sampling import BoundNetwork, Network

Bound = TypeVar("Bound", bound=BoundNetwork)
JOINT_PIXELS = 1 << 15
"""A guided row evaluates the network once, on twice the batch, where the batch has at most this many pixels. One
evaluation of two images takes 0.65 times as long as two of one. Two large batches are as fast apart, or faster."""


class OnArrays(BoundNetwork):
    """A bound network whose evaluate() is the framework's; see core.inference.sampling.BoundNetwork.

    Args:
        network: the network.
        condition, evaluations: as in Network.bind().
    """

    def __init__(self, network: Network, condition: Condition, evaluations: int) -> None:
        self.network: Any = network
        self.condition, self.evaluations = condition, evaluations

    @abstractmethod
    def evaluate(self, x: np.ndarray, t: np.ndarray | float) -> np.ndarray:
        """The output for arrays, where t may be a scalar."""

    def run(
        self,
        table: SamplingTable,
        x_T: np.ndarray,
        noise: Callable[[int], np.ndarray],
        weak: Self | None = None,
        after: After | None = None,
    ) -> np.ndarray:
        """Run a sampling table from the noise x_T (B, H, W, C) to images (B, H, W, C)."""
        if weak is None:
            return tables.run(table, self.evaluate, x_T, noise, after=after)
        both = joined(self, weak, x_T)

        def guided(x: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
            if both is None:
                return self.evaluate(x, t), weak.evaluate(x, t)
            output, other = np.split(both.evaluate(np.concatenate([x, x]), t), 2)
            return output, other

        return tables.run(table, self.evaluate, x_T, noise, guided, after)


def joined(strong: Bound, weak: Bound, x_T: np.ndarray) -> Bound | None:
    """The network conditioned on both conditions, one after the other, for twice the batch.

    Args:
        strong, weak: two bound networks.
        x_T: (B, H, W, C) the batch.
    Returns:
        None where the networks differ or the batch has more than JOINT_PIXELS pixels.
    """
    if weak.network is not strong.network or x_T[..., 0].size > JOINT_PIXELS:
        return None
    condition = {name: np.concatenate([value, weak.condition[name]]) for name, value in strong.condition.items()}
    both: Bound = strong.network.bind(condition, strong.evaluations)
    return both
