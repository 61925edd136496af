"""ONNX Runtime as the executor of a network in place of a twin: the same graph for both, and no framework at all."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np

from core.config import ModelConfig
from core.diffusion import table as tables
from core.diffusion.table import After, SamplingTable
from core.inference.conditioning import Condition
from core.inference.sampling import JOINT_PIXELS
from core.networks.onnx_model import onnx_model
from core.twin import Twin


@dataclass(frozen=True)
class OnnxRuntime(Twin):
    """A twin whose networks are evaluated by ONNX Runtime. Its framework is never imported."""

    threads: int = 0
    """Number of CPU threads; 0 takes all cores."""

    def environment(self) -> dict[str, Any]:
        """As Twin.environment()."""
        return {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.machine(),
            "framework": "onnxruntime",
            "version": version("onnxruntime"),
            "threads": self.threads or os.cpu_count(),
            "device": "cpu",
        }

    def make_network(self, model: ModelConfig, weights: dict[str, np.ndarray], dtype: str) -> Network:
        """The network with given weights.

        Raises:
            ValueError: a package is missing, or the network is not of float32.
        """
        if dtype != "float32":
            raise ValueError(f"--runtime onnx: must be framework for {dtype}; ONNX Runtime computes in float32 alone")
        missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
        if missing:
            raise ValueError(f"--runtime onnx needs {' and '.join(missing)}: pip install {' '.join(missing)}")
        return Network(onnx_model(model, weights), self.threads or os.cpu_count() or 1)


class Network:
    """A network in ONNX Runtime; see core.inference.sampling.Network.

    Args:
        model: content of an .onnx file.
        threads: number of CPU threads.
    """

    def __init__(self, model: bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.module = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def bind(self, condition: Condition | None = None) -> BoundNetwork:
        """The network conditioned on these arrays, whose first axis is the batch."""
        return BoundNetwork(self.module, condition or {})


class BoundNetwork:
    """A network conditioned on given arrays; see core.inference.sampling.BoundNetwork.

    Args:
        session: the network.
        condition: arrays by the network's keyword; their first axis is the batch.
    """

    def __init__(self, session: Any, condition: Mapping[str, np.ndarray]) -> None:
        self.session = session
        self.given = {name: _channels_first(value) if value.ndim == 4 else value for name, value in condition.items()}

    def run(
        self,
        table: SamplingTable,
        x_T: np.ndarray,
        noise: Callable[[int], np.ndarray],
        weak: BoundNetwork | None = None,
        after: After | None = None,
    ) -> np.ndarray:
        """Run a sampling table from the noise x_T (B, H, W, C) to images (B, H, W, C)."""
        guided = None if weak is None else partial(self.guided, weak)
        return tables.run(table, self.evaluate, x_T, noise, guided, after)

    def guided(self, weak: BoundNetwork, x: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
        """The outputs of this network and of the weaker one; small batches of one network are evaluated together."""
        if weak.session is not self.session or x[..., 0].size > JOINT_PIXELS:
            return self.evaluate(x, t), weak.evaluate(x, t)
        both = BoundNetwork(self.session, {})
        both.given = {name: np.concatenate([value, weak.given[name]]) for name, value in self.given.items()}
        output, other = np.split(both.evaluate(np.concatenate([x, x]), t), 2)
        return output, other

    def evaluate(self, x: np.ndarray, t: np.ndarray | float) -> np.ndarray:
        """The output (B, H, W, C or more) for x (B, H, W, C) and t, (B,) or scalar."""
        times = np.broadcast_to(t, len(x)).astype(np.float32)
        inputs = {"x": _channels_first(x), "t": times, **self.given}
        output: np.ndarray = self.session.run(["output"], inputs)[0]
        return output.transpose(0, 2, 3, 1)

    def vector_jacobian(self, x: np.ndarray, t: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Refuse: ONNX Runtime has no derivatives."""
        raise ValueError("runtime onnx: it has no derivatives; take the framework")


def _channels_first(x: np.ndarray) -> np.ndarray:
    """Images (B, H, W, C) as (B, C, H, W), contiguous, float32."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32)
