"""ONNX Runtime as the executor of a network in place of a twin: the same graph for both, and no framework at all."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from core.config import ModelConfig
from core.inference.conditioning import Condition
from core.inference.on_arrays import OnArrays
from core.inference.sampling import Executor, Vector
from core.networks.onnx_model import onnx_model

if TYPE_CHECKING:
    from core.twin import Device, Twin

Runtime = Literal["framework", "onnx"]


def pick_executor(twin: Twin, runtime: Runtime, device: Device, threads: int = 0) -> Executor:
    """What evaluates networks: the twin's framework on a device, or ONNX Runtime.

    Args:
        twin: the framework.
        runtime: framework, or onnx: ONNX Runtime on the CPU.
        device: cuda, mps, cpu or auto; see core.twin.choose_device().
        threads: number of CPU threads; 0 leaves it to the executor.
    Raises:
        ValueError: an unknown runtime, or a device that is not there.
    """
    if runtime == "framework":
        twin = twin.on(device)
        twin.prepare(threads)
        return twin
    if runtime != "onnx":
        raise ValueError(f"runtime {runtime}: must be framework or onnx")
    if device not in ("auto", "cpu"):
        raise ValueError(f"device {device}: must be cpu with runtime onnx")
    return OnnxRuntime(threads)


@dataclass(frozen=True)
class OnnxRuntime:
    """Evaluates networks on the CPU without a framework; see core.inference.sampling.Executor."""

    threads: int = 0
    """Number of CPU threads; 0 takes all cores."""

    def environment(self) -> dict[str, Any]:
        """Entries of a manifest."""
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
            raise ValueError(f"runtime onnx: must be framework for {dtype}; ONNX Runtime computes in float32 alone")
        missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
        if missing:
            raise ValueError(f"runtime onnx needs {' and '.join(missing)}: pip install {' '.join(missing)}")
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

    asynchronous = False

    def bind(self, condition: Condition | None = None, evaluations: int = 0) -> BoundNetwork:
        """The network conditioned on these arrays, whose first axis is the batch."""
        return BoundNetwork(self, condition or {}, evaluations)

    def noise(self, key: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Refuse: ONNX Runtime draws no noise."""
        raise ValueError("runtime onnx: it draws no noise; take noise host")


class BoundNetwork(OnArrays):
    """A network conditioned on given arrays; see core.inference.on_arrays.OnArrays."""

    def __init__(self, network: Network, condition: Condition, evaluations: int) -> None:
        super().__init__(network, condition, evaluations)
        self.given = {name: _channels_first(value) if value.ndim == 4 else value for name, value in condition.items()}

    def evaluate(self, x: np.ndarray, t: np.ndarray | float) -> np.ndarray:
        """The output (B, H, W, C or more) for x (B, H, W, C) and t, (B,) or scalar."""
        times = np.broadcast_to(t, len(x)).astype(np.float32)
        inputs = {"x": _channels_first(x), "t": times, **self.given}
        output: np.ndarray = self.network.module.run(["output"], inputs)[0]
        return output.transpose(0, 2, 3, 1)

    def vector_jacobian(self, x: np.ndarray, t: np.ndarray, v: Vector) -> tuple[np.ndarray, np.ndarray]:
        """Refuse: ONNX Runtime has no derivatives."""
        raise ValueError("runtime onnx: it has no derivatives; take the framework")


def _channels_first(x: np.ndarray) -> np.ndarray:
    """Images (B, H, W, C) as (B, C, H, W), contiguous, float32."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32)
