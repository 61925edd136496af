"""What there is to know of each network, one row an architecture, and the initial parameters, drawn once in NumPy."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from core.config import ModelConfig
from core.networks.baseline import BASELINE_TIME_CHANNELS, baseline_specs
from core.networks.chart import CHART_TIME_CHANNELS, chart_specs
from core.networks.parameters import ParamSpec, check_tensors
from core.networks.unet import unet_specs
from core.random import generator


@dataclass(frozen=True)
class Network:
    """What there is to know of an architecture besides its configuration."""

    specs: Callable[[ModelConfig], dict[str, ParamSpec]]
    sinusoids: Callable[[ModelConfig], int]
    """Channels of the time embedding's sines and cosines."""
    class_name: str
    """The class that a checkpoint names: diffusers' own, or one of ours where diffusers has no such network."""
    max_pooling: bool = False
    """Whether it has maximum pooling, whose gradient jumps between pixels with the last bits of float32."""

    @property
    def in_diffusers(self) -> bool:
        """Whether diffusers can open it."""
        return self.class_name == "UNet2DModel"


NETWORKS: dict[str, Network] = {
    "unet": Network(unet_specs, lambda config: config.block_out_channels[0], "UNet2DModel"),
    "baseline": Network(baseline_specs, lambda config: BASELINE_TIME_CHANNELS, "DiptychBaselineUNet", max_pooling=True),
    "chart": Network(chart_specs, lambda config: CHART_TIME_CHANNELS, "DiptychChartUNet"),
}


def param_specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """Every parameter of the network, by canonical name, in a fixed order."""
    return NETWORKS[config.architecture].specs(config)


def count_parameters(config: ModelConfig) -> int:
    """Number of scalar parameters."""
    return sum(math.prod(spec.shape) for spec in param_specs(config).values())


def initial_weights(config: ModelConfig, seed: int, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Draw the initial parameters; one seed gives the same network in both frameworks.

    Kernels are uniform with variance 1 / fan_avg. The last layer of the network, and of each residual and attention
    branch, is zero. Class embeddings are standard normal. baseline_specs says how the baseline differs.

    Args:
        config: the network.
        seed: in [0, 2^63).
        dtype: of the returned arrays; the draw itself is float64.
    Source: Ho et al. 2020, official code (`nn.default_init`), with exact zeros for its 1e-10.
    """
    weights = {}
    for name, spec in param_specs(config).items():
        if spec.init in ("ones", "zeros"):
            value = np.full(spec.shape, float(spec.init == "ones"))
        else:
            rng = generator(seed, "init", zlib.crc32(name.encode()), 0)
            if spec.init == "normal":
                value = rng.standard_normal(spec.shape)
            else:
                fan_avg = math.prod(spec.shape[2:]) * sum(spec.shape[:2]) / 2
                value = rng.uniform(-1, 1, spec.shape) * (spec.bound or math.sqrt(3 / fan_avg))
        weights[name] = value.astype(dtype)
    return weights


def time_frequencies(config: ModelConfig) -> np.ndarray:
    """Frequencies of the time embedding, (sinusoids / 2,) of the network's row in NETWORKS; angle = t * frequency.

    Source: Vaswani et al. 2017, section 3.5; freq_shift as in diffusers' `get_timestep_embedding`.
    """
    half = NETWORKS[config.architecture].sinusoids(config) // 2
    return np.exp(-math.log(10_000) * np.arange(half) / (half - config.freq_shift))


def check_weights(weights: Mapping[str, np.ndarray], config: ModelConfig, where: str) -> None:
    """Demand exactly the network's parameters: equal names, equal shapes, finite values.

    Raises:
        ValueError: a parameter is missing, left over, of another shape, or not finite; the message names it.
    """
    check_tensors(weights, {name: spec.shape for name, spec in param_specs(config).items()}, where)
