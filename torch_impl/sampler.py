"""The network with a fixed condition, and the loop that runs a sampling table over it. Twin: tf_impl/sampler.py."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from core.config import ModelConfig
from core.diffusion.table import After, Row, SamplingTable, quantile_position
from core.inference.conditioning import Condition
from core.inference.on_arrays import joined
from core.inference.sampling import COMPILED_FROM, Vector
from torch_impl.device import pick_device
from torch_impl.weights import build_unet

logger = logging.getLogger(__name__)


class Network:
    """A network on its device; see core.inference.sampling.Network.

    Args:
        module: the U-Net in evaluation mode, or a module with the same signature.
        compiled: whether torch.compile compiles the network, once for each batch shape. None does so on an NVIDIA GPU,
            for COMPILED_FROM evaluations and more. Where it fails, a line in the log says so, and sampling goes on.
    """

    def __init__(self, module: nn.Module, compiled: bool | None = None) -> None:
        self.module, self.compiled = module, compiled
        self.device = next(module.parameters(), torch.empty(0)).device
        self.asynchronous = self.device.type != "cpu"

    def bind(self, condition: Condition | None = None, evaluations: int = 0) -> BoundNetwork:
        """The network conditioned on these arrays, whose first axis is the batch."""
        return BoundNetwork(self, condition, evaluations)

    @functools.cached_property
    def fast(self) -> Any:
        """The compiled module, as CUDA graphs on an NVIDIA GPU."""
        return torch.compile(self.module, dynamic=False, mode="reduce-overhead")

    def pays(self, evaluations: int) -> bool:
        """Whether the network is compiled for this number of evaluations of one batch shape."""
        return self.device.type == "cuda" and evaluations >= COMPILED_FROM if self.compiled is None else self.compiled

    def noise(self, key: int, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        """Standard normal noise of a shape (B, H, W, C), drawn on the device, as (B, C, H, W)."""
        source = torch.Generator(self.device).manual_seed(key)
        x = torch.randn(shape, generator=source, dtype=getattr(torch, dtype), device=self.device)
        return x.permute(0, 3, 1, 2)

    def to_device(self, x: np.ndarray | torch.Tensor) -> torch.Tensor:
        """The array as a tensor on the device. Images change from NHWC to NCHW. A tensor is there already."""
        if isinstance(x, torch.Tensor):
            return x
        y = torch.from_numpy(np.ascontiguousarray(x) if x.ndim != 4 else x).to(self.device)
        return y.permute(0, 3, 1, 2) if y.ndim == 4 else y


class BoundNetwork:
    """A network conditioned on given arrays; see core.inference.sampling.BoundNetwork.

    Args:
        network: the network.
        condition, evaluations: as in core.inference.sampling.Network.bind().
    """

    def __init__(self, network: Network, condition: Condition | None = None, evaluations: int = 0) -> None:
        self.network, self.condition, self.evaluations = network, condition or {}, evaluations
        self.given = {name: network.to_device(value) for name, value in self.condition.items()}

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The output for x (B, C, H, W) and t, (B,) or scalar."""
        if self.network.pays(self.evaluations):
            try:
                with torch.inference_mode(False), torch.no_grad():  # under it guards of NumPy's constants fail
                    compiled: torch.Tensor = self.network.fast(x, t, **self.given)
                return compiled.to(x.dtype, copy=True)  # the next evaluation writes into the same memory
            except Exception as error:  # the compilers' errors have no class in common
                logger.warning("torch.compile failed, and the sampling goes on without it: %.300s", error)
                self.network.compiled = False
        output: torch.Tensor = self.network.module(x, t, **self.given)
        return output.to(x.dtype)

    @torch.inference_mode()
    def run(
        self,
        table: SamplingTable,
        x_T: np.ndarray,
        noise: Callable[[int], np.ndarray],
        weak: BoundNetwork | None = None,
        after: After | None = None,
    ) -> np.ndarray:
        """Run a sampling table from the noise x_T (B, H, W, C) to images (B, H, W, C)."""
        to_device, channels = self.network.to_device, x_T.shape[-1]
        both = None if weak is None else joined(self, weak, x_T)
        state: list[Any] = [table.start * to_device(x_T)]
        for index, row in enumerate(table.rows):
            t = torch.full((), row.t, dtype=state[0].dtype, device=self.network.device)
            if weak is None or row.guidance == 1:
                output = self(state[0], t)
                predicted = output[:, :channels]
            else:
                x = state[0]
                output, other = (self(x, t), weak(x, t)) if both is None else both(torch.cat([x, x]), t).chunk(2)
                other = other[:, :channels]
                predicted = other + row.guidance * (output[:, :channels] - other)
            raw = row.p * state[0] + row.q * predicted
            x_0 = clipped(table, raw)
            entries = [*state, x_0, raw]
            state = [sum(float(m) * e for m, e in zip(line, entries, strict=True) if m != 0) for line in row.matrix]
            if row.s != 0:
                state[0] = state[0] + deviation(row, output[:, channels:]) * to_device(noise(index))
            if after is not None:
                state[0] = to_device(after(index, to_numpy(state[0]), to_numpy(x_0)))
        return to_numpy(state[0])

    @torch.inference_mode()
    def evaluate(self, x: np.ndarray, t: np.ndarray) -> np.ndarray:
        """The output for arrays; see core.inference.sampling.BoundNetwork."""
        return to_numpy(self(self.network.to_device(x), self.network.to_device(t)))

    def vector_jacobian(self, x: np.ndarray, t: np.ndarray, v: Vector) -> tuple[np.ndarray, np.ndarray]:
        """The output, and v^T d output / d x; v may be a function of the output."""
        to_device = self.network.to_device
        point = to_device(x).requires_grad_()
        output = self.network.module(point, to_device(t), **self.given).to(point.dtype)
        found = to_numpy(output.detach())
        (product,) = torch.autograd.grad(output, point, to_device(v(found) if callable(v) else v))
        return found, to_numpy(product)


def clipped(table: SamplingTable, raw: torch.Tensor) -> torch.Tensor:
    """See core.diffusion.table.clipped."""
    if not table.clip:
        return raw
    if not table.quantile:
        return raw.clamp(-1, 1)
    size = raw.abs().flatten(1).sort(dim=1).values
    low, weight = quantile_position(table.quantile, size.shape[1])
    limit = (1 - weight) * size[:, low] + weight * size[:, min(low + 1, size.shape[1] - 1)]
    limit = limit.clamp(min=1)[:, None, None, None]
    return raw.clamp(-limit, limit) / limit


def deviation(row: Row, fraction: torch.Tensor) -> float | torch.Tensor:
    """See core.diffusion.table.deviation."""
    if row.s_large is None:
        return row.s
    return torch.exp(math.log(row.s) + (fraction + 1) / 2 * math.log(row.s_large / row.s))


def to_numpy(x: torch.Tensor) -> np.ndarray:
    """The tensor as an array. Images change from NCHW to NHWC."""
    array: np.ndarray = (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).cpu().numpy()
    return array


def make_network(
    model: ModelConfig,
    weights: Mapping[str, np.ndarray],
    dtype: str = "float32",
    device: str = "auto",
    compiled: bool | None = None,
) -> Network:
    """The network with given weights, in evaluation mode.

    Args:
        model: its configuration.
        weights: every parameter by canonical name (OIHW).
        dtype: float32, float64, or bf16: float32 with convolutions and products in bfloat16.
        device: where to evaluate it; see pick_device().
        compiled: as in Network.
    """
    place = pick_device(device, dtype)
    module = build_unet(model, weights, "float32" if dtype == "bf16" else dtype).to(place).requires_grad_(False)
    if dtype == "bf16":
        module.forward = torch.autocast(place.type, torch.bfloat16)(module.forward)  # type: ignore[method-assign]
    return Network(module, compiled)
