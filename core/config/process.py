"""The table [process]: the forward process and the objective."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from core.config.limits import check_limits
from core.config.require import require, requirements

Schedule = Literal["linear", "scaled_linear", "cosine", "sigmoid", "flow", "edm"]
Prediction = Literal["eps", "x0", "v", "flow", "edm"]
Loss = Literal["simple", "hybrid", "vlb"]
LossWeight = Literal["simple", "min_snr", "p2", "edm"]


@dataclass(frozen=True)
class ProcessConfig:
    """The forward process and the objective."""

    timesteps: int = 1000
    """Number T of timesteps, each with its noise level."""
    schedule: Schedule = "linear"
    """Noise schedule. linear, scaled_linear, cosine and sigmoid preserve the variance. flow goes from image to noise
    along a straight line. edm has levels even in log sigma."""
    beta_start: float = 1e-4
    """First beta of the linear, scaled_linear and sigmoid schedules."""
    beta_end: float = 0.02
    """Last beta of the linear, scaled_linear and sigmoid schedules."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that the last timestep is pure noise (Lin et al. 2024, algorithm 1)."""
    shift: float = 1.0
    """Shift of the flow schedule: above 1, more timesteps hold much noise (Esser et al. 2024, eq. 23). Raise it for
    large images."""
    sigma_min: float = 0.002
    """Smallest sigma = noise / signal of the edm schedule."""
    sigma_max: float = 80.0
    """Largest sigma of the edm schedule."""
    sigma_data: float = 0.5
    """Standard deviation of the images in [-1, 1], by which the edm schedule, prediction and loss weight scale."""
    stretch: float = 0.0
    """Offset a of the square-root stretch of pixel values, y = (sqrt(x + a) - sqrt(a)) / (sqrt(1 + a) - sqrt(a)); 0 for
    none. The network sees stretched images, and drawn images are stretched back. Photon noise is then equally strong in
    sky and source, so that it is learned sooner. Take a of about the sky's share of the brightest pixel's noise
    variance, such as 0.02."""
    prediction: Prediction = "eps"
    """What the network predicts: the noise (eps), the image (x0), v, a flow's noise - image (flow), or EDM's F."""
    variance: Literal["fixed", "learned"] = "fixed"
    """fixed, or learned: the network then has twice the image's channels. The second half places the reverse variance
    between fixed_small and fixed_large."""
    loss: Loss = "simple"
    """simple is the weighted squared error. hybrid and vlb need a learned variance. hybrid adds vlb_weight T times the
    variational bound, which then trains the variance alone; vlb is the bound itself, in bits a pixel."""
    vlb_weight: float = 0.001
    """Weight of the bound in hybrid, lambda / T (Nichol & Dhariwal 2021)."""
    loss_weight: LossWeight = "simple"
    """Weight of the squared error at each noise level. simple weighs the output's error by 1. min_snr, p2 and edm weigh
    the error of the image or the noise, as their papers define it."""
    min_snr_gamma: float = 5.0
    """Gamma of the min_snr weight (Hang et al. 2023)."""
    p2_k: float = 1.0
    """k of the p2 weight 1 / (k + SNR)^gamma of the noise's error (Choi et al. 2022)."""
    p2_gamma: float = 1.0
    """Gamma of the p2 weight."""

    def __post_init__(self) -> None:
        check_limits(self, "process")
        need, betas, sigmas = requirements(self, "process"), "beta_start, beta_end", "sigma_min, sigma_max"
        need(self.timesteps >= 2, "timesteps", "at least 2")
        ends = (self.beta_start, self.beta_end)
        require(0 < ends[0] <= ends[1] < 1, f"process.{betas}", ends, "0 < beta_start <= beta_end < 1")
        ends = (self.sigma_min, self.sigma_max)
        require(0 < ends[0] < ends[1], f"process.{sigmas}", ends, "0 < sigma_min < sigma_max")
        for key in ("sigma_data", "shift", "min_snr_gamma", "p2_k", "vlb_weight"):
            need(getattr(self, key) > 0, key, "above 0")
        for key in ("p2_gamma", "stretch"):
            need(getattr(self, key) >= 0, key, "at least 0")
        where = f"where schedule is {self.schedule}"
        need(self.shift == 1 or self.schedule == "flow", "shift", f"1 {where}; only flow has it")
        if self.variance == "learned":
            need(self.loss != "simple", "loss", "hybrid or vlb where variance is learned; simple teaches none")
            need(self.stretch == 0, "stretch", "0 where variance is learned, since the bound's grey levels are even")
            need(self.variance_preserving, "variance", f"fixed {where}")
        else:
            need(self.loss == "simple", "loss", "simple where variance is fixed")
        plain = self.loss != "vlb" or self.loss_weight == "simple"
        need(plain, "loss_weight", "simple with loss vlb, which has no other weight")
        if not self.variance_preserving:
            need(not self.zero_terminal_snr, "zero_terminal_snr", f"false {where}")
            need(self.prediction != "v", "prediction", f"another {where}: v belongs to signal^2 + noise^2 = 1")
        if self.prediction == "eps" and (self.zero_terminal_snr or self.schedule == "flow"):
            cause, instead = (
                ("zero_terminal_snr = true", "v") if self.zero_terminal_snr else ("schedule = 'flow'", "flow")
            )
            raise ValueError(
                f"process.prediction = 'eps' with {cause}: the last timestep holds no signal, so the noise predicted "
                f"there says nothing of the image; use prediction {instead} or x0"
            )

    @property
    def variance_preserving(self) -> bool:
        """Whether signal^2 + noise^2 = 1 at every level."""
        return self.schedule not in ("flow", "edm")

    def check_variance(self, variance: str, where: str = "sampling.variance") -> None:
        """Raise ValueError where the reverse process cannot have this variance."""
        if variance != "fixed_small" and not self.variance_preserving:
            raise ValueError(
                f"{where} = {variance!r} with process.schedule = {self.schedule!r}: must be fixed_small; beta bounds "
                "the reverse variance only where the variance is preserved"
            )
        allowed = "fixed_small or fixed_large where process.variance is fixed"
        require(variance != "learned" or self.variance == "learned", where, variance, allowed)

    def signal_and_noise(self, half_log_snr: float) -> tuple[float, float]:
        """Signal and noise of a level of the process, from log(signal / noise).

        Source: signal^2 + noise^2 = 1 (variance preserving); signal + noise = 1 (flow); noise^2 + (sigma_data signal)^2
            = 1 (edm, so that c_in of Karras et al. 2022, table 1, is in the state).
        """
        sigma, snr = math.exp(-half_log_snr), math.exp(half_log_snr)
        if self.schedule == "flow":
            return 1 / (1 + sigma), 1 / (1 + snr)
        data = self.sigma_data if self.schedule == "edm" else 1.0
        return 1 / math.hypot(data, sigma), 1 / math.hypot(1, data * snr)
