"""The table [sampling]: how images are drawn. Imports no framework."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from core.config.require import require

Sampler = Literal[
    "ddpm", "ddim", "dpmsolver++", "dpmsolver++2s", "dpmsolver++3m", "sde-dpmsolver++", "unipc", "ipndm", "euler", "heun",
    "flow_euler", "flow_heun",
]  # fmt: skip
Spacing = Literal["leading", "trailing", "linspace", "quadratic", "log_snr", "karras"]
Variance = Literal["fixed_small", "fixed_large", "learned"]


@dataclass(frozen=True)
class SamplingConfig:
    """How images are drawn from a trained network."""

    sampler: Sampler = "ddim"
    """Sampling method: dpmsolver++ is its 2M; heun and euler step in EDM's sigma, flow_heun and flow_euler in the share
    of noise."""
    steps: int = 50
    """Points of the sampling grid; heun and flow_heun evaluate the network twice at each but the last, others once."""
    spacing: Spacing = "trailing"
    """Where the steps lie: trailing, leading, linspace and quadratic on the training grid, log_snr and karras (rho 7) between
    its levels."""
    eta: float = 0.0
    """Noise of ddim: 0 is deterministic, 1 is ancestral."""
    variance: Variance = "fixed_small"
    """Variance of ddpm; learned needs a network that predicts it."""
    clip: bool = True
    """Clip the predicted image to [-1, 1] at every step."""
    order: int = 0
    """Order of unipc (1 to 3) and ipndm (1 to 4); 0 for 2 and 4."""
    unipc_variant: Literal["bh1", "bh2"] = "bh2"
    """B(h) of unipc: h or e^h - 1."""
    churn: float = 0.0
    """S_churn of euler and heun: noise added and removed again, spread over the steps; 0 is deterministic."""
    churn_min: float = 0.0
    """S_tmin: the smallest sigma at which there is churn."""
    churn_max: float = 0.0
    """S_tmax: the largest sigma at which there is churn; 0 for no limit."""
    churn_noise: float = 1.0
    """S_noise: standard deviation of the noise that churn adds."""
    dynamic_threshold: float = 0.0
    """With clip: clip to this quantile of the predicted image's absolute values where it is above 1, and divide by it; 0 for no."""
    nfe: int = 0
    """Evaluations of the network an image, in place of steps; 0 leaves it to steps. Guidance's weak ones are not counted."""
    guidance: float = 1.0
    """Factor g of weak + g (output - weak), weak without the condition or by another network; 1 is off, anything else
    evaluates twice."""
    guidance_min: float = 0.0
    """Guide only above this sigma = noise / signal."""
    guidance_max: float = 0.0
    """Guide only up to this sigma; 0 for no limit."""
    batch_size: int = 64
    """Images drawn at a time; the images do not depend on it."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, "sampling.steps", self.steps, "at least 1")
        require(self.nfe >= 0, "sampling.nfe", self.nfe, "at least 0")
        require(0 <= self.eta <= 1, "sampling.eta", self.eta, "in [0, 1]")
        require(0 <= self.order <= 4, "sampling.order", self.order, "in [0, 4]")
        for key in ("churn", "churn_min", "churn_noise", "guidance", "guidance_min"):
            require(getattr(self, key) >= 0 and math.isfinite(getattr(self, key)), f"sampling.{key}", getattr(self, key), "at least 0")  # fmt: skip
        require(self.churn_max == 0 or self.churn_max > self.churn_min, "sampling.churn_max", self.churn_max, "above churn_min, or 0")  # fmt: skip
        require(self.guidance_max == 0 or self.guidance_max > self.guidance_min, "sampling.guidance_max", self.guidance_max, "above guidance_min, or 0")  # fmt: skip
        require(0 <= self.dynamic_threshold <= 1, "sampling.dynamic_threshold", self.dynamic_threshold, "in [0, 1]")
        require(self.clip or not self.dynamic_threshold, "sampling.dynamic_threshold", self.dynamic_threshold, "0 where clip is false")  # fmt: skip
        require(self.batch_size >= 1, "sampling.batch_size", self.batch_size, "at least 1")
