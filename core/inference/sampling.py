"""Sampling from a network: the protocols that a twin implements, keyed noise, and batches.

The noise of an image depends on its index and not on its batch, so that image i of a seed is one image in both
frameworks.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from core.ahead import Ahead
from core.config import ModelConfig
from core.diffusion.table import After, SamplingTable
from core.exits import RunError
from core.images import to_unit
from core.inference.conditioning import Condition
from core.random import gaussian, generator

COMPILED_FROM = 2000
"""Number of evaluations of one batch shape from which an NVIDIA GPU's network is compiled, which may take a minute."""
Vector = NDArray[Any] | Callable[[NDArray[Any]], NDArray[Any]]
"""The v of v^T d output / d x, of the output's shape, or a function that makes it from the output."""
Part = NDArray[np.int64]
"""Positions (B,) of a batch's images among the N images."""


class BoundNetwork(Protocol):
    """A twin's network with a fixed condition. On the twin's tensors it is a callable (x, t); these work on arrays."""

    network: Any
    """The Network that was bound."""
    condition: Condition
    """Arrays of the batch's rows by the network's keyword."""
    evaluations: int
    """Expected number of evaluations of the batch's shape."""

    def run(
        self,
        table: SamplingTable,
        x_T: np.ndarray,
        noise: Callable[[int], np.ndarray],
        weak: Self | None = None,
        after: After | None = None,
    ) -> np.ndarray:
        """Run a sampling table, as core.diffusion.table.run() does: x_T, noise(row) and the result are (B, H, W, C)."""
        ...

    def evaluate(self, x: np.ndarray, t: np.ndarray) -> np.ndarray:
        """The output (B, H, W, C or more) for x (B, H, W, C) and t (B,), both of the network's dtype."""
        ...

    def vector_jacobian(self, x: np.ndarray, t: np.ndarray, v: Vector) -> tuple[np.ndarray, np.ndarray]:
        """The output, and v^T d output / d x of the shape of x."""
        ...


class Network(Protocol):
    """A network with its weights, on its device."""

    module: Any
    """The executor's own network: a torch.nn.Module, a Keras layer, or a session of ONNX Runtime."""

    asynchronous: bool
    """Whether the network runs on a GPU beside the host, which then draws the noise one row ahead in a thread."""

    def bind(self, condition: Condition | None = None, evaluations: int = 0) -> BoundNetwork:
        """The network conditioned on these arrays, whose first axis is the batch.

        Args:
            condition: arrays by the network's keyword.
            evaluations: expected number of evaluations of this batch's shape; see COMPILED_FROM.
        """
        ...

    def noise(self, key: int, shape: tuple[int, ...], dtype: str) -> Any:
        """Standard normal noise (B, H, W, C) of the framework's own generator, as BoundNetwork.run() takes it.

        Args:
            key: seed of the generator, in [0, 2^63).
            shape: (B, H, W, C).
            dtype: float32 or float64.
        """
        ...


class Executor(Protocol):
    """What evaluates networks: a twin (core.twin.Twin), or ONNX Runtime (core.inference.onnx_runtime.OnnxRuntime)."""

    def make_network(self, model: ModelConfig, weights: dict[str, np.ndarray], dtype: str) -> Network:
        """The network with given weights, in evaluation mode; see Twin.make_network()."""
        ...

    def environment(self) -> dict[str, Any]:
        """Entries of a manifest: machine, versions, framework, number of threads and device."""
        ...


@dataclass(frozen=True)
class Conditioned:
    """A network, and the condition of N images."""

    network: Network
    condition: Condition
    """Arrays of N rows by the network's keyword."""

    def bind(self, part: Part, evaluations: int = 0) -> BoundNetwork:
        """The network conditioned on the rows of one batch; see Network.bind()."""
        return self.network.bind({name: value[part] for name, value in self.condition.items()}, evaluations)


@dataclass(frozen=True)
class KeyedNoise:
    """The noise of N images. It depends on the seed and on each image's index, never on the batch."""

    seed: int
    """Seed of the noise."""
    samples: Sequence[int]
    """Index of each image."""
    shape: tuple[int, ...]
    """(H, W, C) of one image."""
    dtype: str
    """float32 or float64."""
    on_device: bool = False
    """Whether the network's device draws the noise of a sampler's steps, a batch at a time."""

    def __call__(self, purpose: str, part: Part, step: int = 0) -> np.ndarray:
        """Standard normal noise (B, H, W, C) of the images at the positions `part`."""
        return gaussian(self.seed, purpose, [self.samples[i] for i in part], step, self.shape, self.dtype)

    def step(self, network: Network, part: Part, row: int) -> Any:
        """The noise of a sampler's row, as the network's run() takes it."""
        if not self.on_device:
            return self("sampler", part, row)
        key = generator(self.seed, "device_noise", self.samples[part[0]], row).integers(2**63)
        return network.noise(int(key), (len(part), *self.shape), self.dtype)

    def batches(self, size: int) -> list[Part]:
        """Positions of the images in batches of `size`."""
        return [np.arange(i, min(i + size, len(self.samples))) for i in range(0, len(self.samples), size)]


def run_table(
    table: SamplingTable,
    network: Conditioned,
    noise: KeyedNoise,
    batch_size: int,
    weak: Conditioned | None = None,
    start: Callable[[Part], np.ndarray] | None = None,
    after: Callable[[Part], After] | None = None,
) -> np.ndarray:
    """Run a table on N images in batches; the result does not depend on batch_size.

    Args:
        table: the sampling table.
        network: the network to evaluate, with the condition of N images.
        noise: noise of the N images.
        batch_size: number of images evaluated at a time.
        weak: the weaker network that guidance moves away from.
        start: makes the first state of a batch, (B, H, W, C); None takes the noise x_T.
        after: makes the function that is called after each row, for one batch.
    Returns:
        (N, H, W, C): the states after the last row, images in [-1, 1] that are not clipped.
    Raises:
        ValueError: a guided table without a weaker network.
    """
    if weak is None and table.network_evaluations > table.nfe:
        raise ValueError("sampling.guidance: must be 1 where there is no weaker network")
    images = np.empty((len(noise.samples), *noise.shape), noise.dtype)
    batches = noise.batches(batch_size)
    sizes = Counter(len(part) for part in batches)
    rows = [index for index, row in enumerate(table.rows) if row.s != 0]
    for part in batches:
        x_T = noise("x_T", part) if start is None else start(part)

        step_noise = partial(noise.step, network.network, part)
        evaluations = table.nfe * sizes[len(part)]
        bound = network.bind(part, evaluations)
        other = None if weak is None else weak.bind(part, evaluations)
        hook = None if after is None else after(part)
        with contextlib.closing(Ahead(step_noise, rows, 1)) as ahead:
            drawn = ahead.take if network.network.asynchronous and not noise.on_device else step_noise
            images[part] = bound.run(table, x_T, drawn, other, hook)
    return images


def finished(images: np.ndarray, stretch: float = 0.0) -> np.ndarray:
    """Map images (N, H, W, C) from [-1, 1] to [0, 1], and clip them; `stretch` is process.stretch.

    Raises:
        RunError: an image is not finite.
    """
    broken = int((~np.isfinite(images)).any(axis=(1, 2, 3)).sum())
    if broken:
        raise RunError(
            f"{broken} of {len(images)} images have values that are not finite: the weights have diverged; "
            "use an earlier checkpoint, or train again with a lower training.learning_rate"
        )
    return to_unit(images, stretch)
