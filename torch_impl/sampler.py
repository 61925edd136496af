"""The executor of sampling tables over the network. Twin: tf_impl/sampler.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from core.config import ModelConfig
from core.diffusion.table import Edit, Row, SamplingTable, quantile_position
from core.inference.conditioning import Condition
from torch_impl.weights import build_unet


class Sampler:
    """Runs sampling tables; see core.inference.sampling.Sampler for shapes.

    Args:
        network: the U-Net in evaluation mode, or any module with its signature.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @torch.inference_mode()
    def __call__(
        self,
        table: SamplingTable,
        x_T: np.ndarray,
        noise: Callable[[int], np.ndarray],
        condition: Condition | None = None,
        callback: Callable[[int, np.ndarray], None] | None = None,
        edit: Edit | None = None,
        weak: Condition | None = None,
        guide: Sampler | None = None,
    ) -> np.ndarray:
        """Run a table: (B, H, W, C) noise in, (B, H, W, C) images out."""
        given, low = self.tensors(condition), self.tensors(weak)
        state, channels = [table.start * self.to_device(x_T)], x_T.shape[-1]
        for index, row in enumerate(table.rows):
            t = torch.tensor(row.t, dtype=state[0].dtype)
            output = self.network(state[0], t, **given)
            predicted = output[:, :channels]
            if row.guidance != 1:
                other = (guide or self).network(state[0], t, **low)[:, :channels]
                predicted = other + row.guidance * (predicted - other)
            raw = row.p * state[0] + row.q * predicted
            x_0 = clipped(table, raw)
            entries = [*state, x_0, raw]
            state = [sum(float(m) * e for m, e in zip(line, entries, strict=True) if m != 0) for line in row.matrix]
            if row.s != 0:
                state[0] = state[0] + deviation(row, output[:, channels:]) * self.to_device(noise(index))
            if edit is not None:
                state[0] = self.to_device(edit(index, to_numpy(state[0])))
            if callback is not None:
                callback(index, to_numpy(x_0))
        return to_numpy(state[0])

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters(), torch.empty(0)).device

    def to_device(self, x: np.ndarray) -> torch.Tensor:
        """NHWC array to NCHW tensor; one that is no image, as it is."""
        y = torch.from_numpy(x).to(self.device)
        return y.permute(0, 3, 1, 2).contiguous() if y.ndim == 4 else y

    def tensors(self, condition: Condition | None) -> dict[str, torch.Tensor]:
        """A condition's arrays as tensors."""
        return {name: self.to_device(np.ascontiguousarray(value)) for name, value in (condition or {}).items()}


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
    """NCHW tensor to NHWC array; one that is no image, as it is."""
    return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).cpu().numpy()


def make_sampler(config: ModelConfig, weights: Mapping[str, np.ndarray], dtype: str = "float32") -> Sampler:
    """The executor over a network with given weights, on a GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Sampler(build_unet(config, weights, dtype).to(device))
