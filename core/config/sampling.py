"""The table [sampling]: how images are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config.limits import check_limits
from core.config.require import requirements

Sampler = Literal[
    "ddpm",
    "ddim",
    "dpmsolver++",
    "dpmsolver++2s",
    "dpmsolver++3m",
    "sde-dpmsolver++",
    "unipc",
    "ipndm",
    "euler",
    "heun",
    "flow_euler",
    "flow_heun",
]
Spacing = Literal["leading", "trailing", "linspace", "quadratic", "log_snr", "karras"]
Variance = Literal["fixed_small", "fixed_large", "learned"]


@dataclass(frozen=True)
class SamplingConfig:
    """How images are drawn from a trained network."""

    sampler: Sampler = "ddim"
    """Sampling method. ddim is deterministic; ddpm adds noise and needs many steps; unipc and dpmsolver++ (2M) need
    few. euler and heun step in sigma = noise / signal, flow_euler and flow_heun in the share of
    noise."""
    steps: int = 50
    """Timesteps of the sampling grid. More steps cost time and come closer to the exact solution. heun and flow_heun
    evaluate the network twice a step, but once in the last."""
    spacing: Spacing = "trailing"
    """Where the grid's timesteps lie. trailing, leading, linspace and quadratic are training timesteps. log_snr and
    karras (rho 7) lie between them."""
    eta: float = 0.0
    """Noise that ddim adds at each step, in [0, 1]: 0 is deterministic, 1 is as much as ddpm."""
    variance: Variance = "fixed_small"
    """Reverse variance of ddpm: the posterior's (fixed_small), beta (fixed_large), or the network's prediction
    (learned)."""
    clip: bool = True
    """Clip the predicted image to [-1, 1] at every step."""
    order: int = 0
    """Order of unipc (1 to 3) or ipndm (1 to 4); 0 takes 2 for unipc and 4 for ipndm."""
    unipc_variant: Literal["bh1", "bh2"] = "bh2"
    """B(h) of unipc: bh1 is h, bh2 is e^h - 1."""
    churn: float = 0.0
    """S_churn of euler and heun: noise that is added and removed again, spread over the steps; 0 is deterministic."""
    churn_min: float = 0.0
    """S_tmin: the smallest sigma at which churn acts."""
    churn_max: float = 0.0
    """S_tmax: the largest sigma at which churn acts; 0 for no limit."""
    churn_noise: float = 1.0
    """S_noise: standard deviation of the noise that churn adds."""
    dynamic_threshold: float = 0.0
    """Quantile for dynamic thresholding, in [0, 1]; 0 is off. Where the quantile of an image's absolute values is above
    1, the image is clipped to it and divided by it. Needs clip."""
    nfe: int = 0
    """Number of network evaluations an image, in place of steps; 0 leaves it to steps. Evaluations of the weak network
    are not counted."""
    guidance: float = 1.0
    """Guidance scale g in weak + g (output - weak). The weak output is unconditional, or comes from a weaker network. 1
    is off; any other value evaluates two networks a step."""
    guidance_min: float = 0.0
    """Guide only at noise levels above this sigma = noise / signal."""
    guidance_max: float = 0.0
    """Guide only at noise levels up to this sigma; 0 for no limit."""
    noise: Literal["host", "device"] = "host"
    """Where noise is drawn that a sampler adds at its steps. host draws each image's own noise, the same in both
    frameworks. device is faster on a GPU: the framework draws a batch's noise there. The images then depend on the
    framework, the device and batch_size, too."""
    batch_size: int = 64
    """Images drawn at a time. It changes time and memory, not the images (but see noise)."""

    def __post_init__(self) -> None:
        check_limits(self, "sampling")
        need = requirements(self, "sampling")
        need(self.steps >= 1, "steps", "at least 1")
        need(0 <= self.eta <= 1, "eta", "in [0, 1]")
        need(0 <= self.order <= 4, "order", "in [0, 4]")
        for key in ("churn", "churn_min", "churn_noise", "guidance", "guidance_min"):
            need(getattr(self, key) >= 0, key, "at least 0")
        need(self.churn_max == 0 or self.churn_max > self.churn_min, "churn_max", "above churn_min, or 0")
        need(
            self.guidance_max == 0 or self.guidance_max > self.guidance_min, "guidance_max", "above guidance_min, or 0"
        )
        need(0 <= self.dynamic_threshold <= 1, "dynamic_threshold", "in [0, 1]")
        need(self.clip or not self.dynamic_threshold, "dynamic_threshold", "0 where clip is false")
        need(self.batch_size >= 1, "batch_size", "at least 1")
