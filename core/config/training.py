"""The table [training]: how the network is trained. Imports no framework."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from core.config.require import require

TimestepSampling = Literal["uniform", "log_normal", "importance"]

WIDEST_PROFILE = 1 / math.sqrt(12)
"""sigma_rel of the plain mean of all steps, which no profile of the weights' average reaches."""


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained."""

    steps: int = 10_000
    """Optimiser steps."""
    batch_size: int = 64
    """Images an optimiser step."""
    accumulate: int = 1
    """Micro-batches an optimiser step; must divide batch_size. The result does not depend on it, but for dropout's masks."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Adam or AdamW, as PyTorch defines them."""
    learning_rate: float = 2e-4
    """Peak learning rate."""
    warmup_steps: int = 500
    """Steps over which the learning rate rises linearly."""
    decay: Literal["constant", "cosine", "linear"] = "constant"
    """Shape of the learning rate after decay_start."""
    decay_start: float = 0.0
    """Share of the steps at which the decay starts."""
    final_fraction: float = 0.0
    """Learning rate at the last step as a fraction of the peak, for cosine and linear decay."""
    beta1: float = 0.9
    """Adam's beta_1."""
    beta2: float = 0.999
    """Adam's beta_2."""
    adam_eps: float = 1e-8
    """Adam's epsilon, outside the root as in PyTorch."""
    weight_decay: float = 0.0
    """Weight decay of matrices and kernels (not of norms and biases): L2 with adam, decoupled with adamw."""
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 for no clipping."""
    condition_dropout: float = 0.0
    """Share of images that are trained without their class and numbers, which guidance needs; the last class is then none."""
    timestep_sampling: TimestepSampling = "uniform"
    """How often each noise level is trained: log_normal in sigma = noise / signal; importance, by the root mean square of the
    level's last losses, which are divided by it."""
    p_mean: float = -1.2
    """Mean of log sigma, for log_normal."""
    p_std: float = 1.2
    """Standard deviation of log sigma, for log_normal."""
    stratified: bool = False
    """Spread the levels of a batch evenly over their distribution, from one random number a step."""
    ema_decay: float = 0.9999
    """Decay of the weights' moving average, warmed up as min(ema_decay, (1 + n) / (10 + n))."""
    ema_profiles: tuple[float, ...] = ()
    """Further averages, by sigma_rel such as 0.05 and 0.1, of which every checkpoint leaves a snapshot in averages/: from them
    synthesise-ema makes an average of any length (Karras et al. 2024)."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of weights and arithmetic."""
    autocast: Literal["none", "bf16"] = "none"
    """bf16 runs convolutions and products in bfloat16 (slower than float32 on most CPUs)."""
    seed: int = 0
    """Seed of the initial weights, the order of data, noise, dropout and augmentation."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    sample_every: int = 0
    """Steps between sample grids; 0 for none but the last."""
    sample_count: int = 16
    """Images in a sample grid; 0 for no grids."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = 2
    """Number of latest checkpoints kept; 0 keeps all."""
    gradient_checkpointing: bool = False
    """Compute each block once more in the backward pass instead of keeping what is in it: less memory, more time, the
    same result."""
    threads: int = 0
    """CPU threads; 0 for the framework's choice."""

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "accumulate", "log_every", "checkpoint_every"):
            require(getattr(self, key) >= 1, f"training.{key}", getattr(self, key), "at least 1")
        for key in ("warmup_steps", "sample_every", "sample_count", "keep_checkpoints", "threads", "weight_decay", "clip_norm"):  # fmt: skip
            require(getattr(self, key) >= 0, f"training.{key}", getattr(self, key), "at least 0")
        require(self.batch_size % self.accumulate == 0, "training.accumulate", self.accumulate, f"a divisor of batch_size {self.batch_size}")  # fmt: skip
        require(self.learning_rate > 0 and math.isfinite(self.learning_rate), "training.learning_rate", self.learning_rate, "above 0")  # fmt: skip
        for key in ("decay_start", "final_fraction"):
            require(0 <= getattr(self, key) <= 1, f"training.{key}", getattr(self, key), "in [0, 1]")
        for key in ("beta1", "beta2", "ema_decay", "condition_dropout"):
            require(0 <= getattr(self, key) < 1, f"training.{key}", getattr(self, key), "in [0, 1)")
        for value in self.ema_profiles:
            require(
                0 < value < WIDEST_PROFILE,
                "training.ema_profiles",
                value,
                f"above 0 and below {WIDEST_PROFILE:.4f} each",
            )
        require(len(set(self.ema_profiles)) == len(self.ema_profiles), "training.ema_profiles", self.ema_profiles, "named once each")  # fmt: skip
        require(math.isfinite(self.p_mean), "training.p_mean", self.p_mean, "finite")
        require(0 < self.p_std < math.inf, "training.p_std", self.p_std, "above 0")
        require(self.adam_eps > 0, "training.adam_eps", self.adam_eps, "above 0")
        require(0 <= self.seed < 2**63, "training.seed", self.seed, "in [0, 2^63)")
        if self.autocast == "bf16":
            require(self.dtype == "float32", "training.autocast", self.autocast, "none where dtype is float64")
