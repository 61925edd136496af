"""The table [process]: the forward process and the objective. Imports no framework."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from core.config.require import require

Schedule = Literal["linear", "scaled_linear", "cosine", "sigmoid", "flow", "edm"]
Prediction = Literal["eps", "x0", "v", "flow", "edm"]
Loss = Literal["simple", "hybrid", "vlb"]
LossWeight = Literal["simple", "min_snr", "p2", "edm"]


@dataclass(frozen=True)
class ProcessConfig:
    """The forward process and the objective."""

    timesteps: int = 1000
    """Number T of noise levels."""
    schedule: Schedule = "linear"
    """Noise schedule: variance preserving; flow, the straight line from image to noise; or edm, even in log sigma."""
    beta_start: float = 1e-4
    """First beta of the linear, scaled_linear and sigmoid schedules."""
    beta_end: float = 0.02
    """Last beta of the linear, scaled_linear and sigmoid schedules."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that the last level is pure noise (Lin et al. 2024, algorithm 1)."""
    shift: float = 1.0
    """Of the flow schedule: above 1, more levels hold much noise (Esser et al. 2024, eq. 23)."""
    sigma_min: float = 0.002
    """Smallest sigma = noise / signal of the edm schedule."""
    sigma_max: float = 80.0
    """Largest sigma of the edm schedule."""
    sigma_data: float = 0.5
    """Standard deviation of the images in [-1, 1], which the edm schedule, prediction and loss weight scale by."""
    prediction: Prediction = "eps"
    """What the network predicts: noise, the image, v, flow's noise - image, or edm's F."""
    variance: Literal["fixed", "learned"] = "fixed"
    """learned: the network has twice the image's channels and the second half says where the reverse variance lies between
    fixed_small and fixed_large."""
    loss: Loss = "simple"
    """simple, the weighted squared error; where the variance is learned hybrid, with vlb_weight T of the variational bound, which
    teaches the variance alone; or vlb, the bound alone, in bits a pixel."""
    vlb_weight: float = 0.001
    """Lambda / T of hybrid (Nichol & Dhariwal 2021)."""
    loss_weight: LossWeight = "simple"
    """Weight of the squared error by noise level: 1 on the output (simple), or one of the predicted image's or noise's error
    carried over to the output; edm is 1 on the output of prediction edm."""
    min_snr_gamma: float = 5.0
    """Gamma of the min_snr weight (Hang et al. 2023)."""
    p2_k: float = 1.0
    """k of the p2 weight 1 / (k + SNR)^gamma of the noise's error (Choi et al. 2022)."""
    p2_gamma: float = 1.0
    """Gamma of the p2 weight."""

    def __post_init__(self) -> None:
        require(self.timesteps >= 2, "process.timesteps", self.timesteps, "at least 2")
        require(0 < self.beta_start <= self.beta_end < 1, "process.beta_start, beta_end", (self.beta_start, self.beta_end), "0 < beta_start <= beta_end < 1")  # fmt: skip
        require(0 < self.sigma_min < self.sigma_max < math.inf, "process.sigma_min, sigma_max", (self.sigma_min, self.sigma_max), "0 < sigma_min < sigma_max")  # fmt: skip
        require(0 < self.sigma_data < math.inf, "process.sigma_data", self.sigma_data, "above 0")
        require(0 < self.shift < math.inf, "process.shift", self.shift, "above 0")
        require(self.shift == 1 or self.schedule == "flow", "process.shift", self.shift, f"1 where schedule is {self.schedule}; only flow has it")  # fmt: skip
        if self.variance == "learned":
            require(self.loss != "simple", "process.loss", self.loss, "hybrid or vlb where variance is learned; simple teaches none")  # fmt: skip
            require(self.variance_preserving, "process.variance", self.variance, f"fixed where schedule is {self.schedule}")  # fmt: skip
        else:
            require(self.loss == "simple", "process.loss", self.loss, "simple where variance is fixed")
        require(self.loss != "vlb" or self.loss_weight == "simple", "process.loss_weight", self.loss_weight, "simple with loss vlb, which has no other weight")  # fmt: skip
        for key in ("min_snr_gamma", "p2_k", "vlb_weight"):
            require(0 < getattr(self, key) < math.inf, f"process.{key}", getattr(self, key), "above 0")
        require(0 <= self.p2_gamma < math.inf, "process.p2_gamma", self.p2_gamma, "at least 0")
        if not self.variance_preserving:
            require(not self.zero_terminal_snr, "process.zero_terminal_snr", self.zero_terminal_snr, f"false where schedule is {self.schedule}")  # fmt: skip
            require(self.prediction != "v", "process.prediction", self.prediction, f"another where schedule is {self.schedule}: v belongs to signal^2 + noise^2 = 1")  # fmt: skip
        if self.prediction == "eps" and (self.zero_terminal_snr or self.schedule == "flow"):
            cause = "zero_terminal_snr = true" if self.zero_terminal_snr else "schedule = 'flow'"
            raise ValueError(
                f"process.prediction = 'eps' with {cause}: the last level holds no signal, so noise "
                f"predicted there says nothing of the image; use prediction {'v' if self.zero_terminal_snr else 'flow'} or x0"
            )

    @property
    def variance_preserving(self) -> bool:
        """Whether signal^2 + noise^2 = 1 at every level."""
        return self.schedule not in ("flow", "edm")

    def check_variance(self, variance: str, where: str = "sampling.variance") -> None:
        """Raise ValueError where the reverse process cannot have this variance."""
        if variance != "fixed_small" and not self.variance_preserving:
            raise ValueError(
                f"{where} = {variance!r} with process.schedule = {self.schedule!r}: must be fixed_small; beta bounds the "
                "reverse variance only where the variance is preserved"
            )
        require(variance != "learned" or self.variance == "learned", where, variance, "fixed_small or fixed_large where process.variance is fixed")  # fmt: skip

    def signal_and_noise(self, half_log_snr: float) -> tuple[float, float]:
        """Signal and noise of a level of the process, from log(signal / noise).

        Source: signal^2 + noise^2 = 1 (variance preserving); signal + noise = 1 (flow); noise^2 + (sigma_data signal)^2 = 1
            (edm, so that c_in of Karras et al. 2022, table 1, is in the state).
        """
        sigma, snr = math.exp(-half_log_snr), math.exp(half_log_snr)
        if self.schedule == "flow":
            return 1 / (1 + sigma), 1 / (1 + snr)
        data = self.sigma_data if self.schedule == "edm" else 1.0
        return 1 / math.hypot(data, sigma), 1 / math.hypot(1, data * snr)
