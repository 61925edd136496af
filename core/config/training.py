"""The table [training]: how the network is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from core.config.limits import check_limits
from core.config.require import require, requirements

Autocast = Literal["none", "tf32", "bf16"]
TimestepSampling = Literal["uniform", "log_normal", "importance"]

WIDEST_PROFILE = 1 / math.sqrt(12)
"""sigma_rel of the plain mean of all steps, which no profile of the weights' average reaches."""

MUCH_WAITING = 0.05
"""Share of a training's time above which waiting for batches is shown."""


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained."""

    steps: int = 10_000
    """Number of optimiser steps."""
    batch_size: int = 64
    """Images in one optimiser step."""
    accumulate: int = 1
    """Micro-batches in one optimiser step, a divisor of batch_size. Raise it where memory is short; only dropout's
    masks depend on it."""
    optimizer: Literal["adam", "adamw", "muon"] = "adam"
    """Adam or AdamW, as PyTorch defines them, or Muon. Muon trains the kernels and matrices inside the network. Adam
    then trains the rest: the first and last layer, embeddings, time projections, norms and biases."""
    learning_rate: float = 2e-4
    """Peak learning rate, of Adam where the optimizer is muon."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of Muon, which warms up and decays as learning_rate does. Read where the optimizer is muon."""
    muon_momentum: float = 0.95
    """Share of Muon's momentum that a step keeps. Read where the optimizer is muon."""
    warmup_steps: int = 500
    """Steps over which the learning rate rises linearly to its peak."""
    decay: Literal["constant", "cosine", "linear"] = "constant"
    """Shape of the learning rate after decay_start."""
    decay_start: float = 0.0
    """Share of the steps at which the decay starts, in [0, 1]."""
    final_fraction: float = 0.0
    """Learning rate at the last step as a fraction of the peak; read where decay is cosine or linear."""
    beta1: float = 0.9
    """Adam's beta_1."""
    beta2: float = 0.999
    """Adam's beta_2."""
    adam_eps: float = 1e-8
    """Adam's epsilon, added outside the root as in PyTorch."""
    weight_decay: float = 0.0
    """Weight decay of matrices and kernels, not of norms and biases: L2 with adam, decoupled with adamw. With muon it
    is L2 for the parameters that Adam trains, and decoupled for Muon's: a step multiplies those by
    1 - weight_decay * (the rate of Muon)."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; a longer gradient is scaled down to it. 0 for no clipping."""
    condition_dropout: float = 0.0
    """Share of training images whose classes and parameters are withheld, in [0, 1). Guidance needs it, 0.1 for
    example. The last class then means unconditional."""
    timestep_sampling: TimestepSampling = "uniform"
    """How often each timestep is trained. log_normal draws log sigma = log(noise / signal) from a normal distribution.
    importance draws a timestep in proportion to the root mean square of its last losses, and divides the loss by that
    probability."""
    p_mean: float = -1.2
    """Mean of log sigma for log_normal."""
    p_std: float = 1.2
    """Standard deviation of log sigma for log_normal."""
    stratified: bool = False
    """Spread the timesteps of a batch evenly over their distribution, which makes the loss less noisy."""
    ema_decay: float = 0.9999
    """Decay a step of the moving average of the parameters, warmed up as min(ema_decay, (1 + n) / (10 + n))."""
    ema_profiles: tuple[float, ...] = ()
    """Widths sigma_rel of further averages of the parameters, such as 0.05 and 0.1. Every checkpoint leaves a snapshot
    of them in averages/. synthesise-ema makes an average of any width from the snapshots (Karras et al. 2024)."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating type of parameters and arithmetic. float64 is slow and meant for comparing the frameworks."""
    autocast: Autocast = "none"
    """Precision of convolutions and matrix products. none is that of dtype. tf32 rounds their inputs to 10 bits of
    mantissa on an NVIDIA GPU of 2020 and later, and changes nothing elsewhere. bf16 computes them in bfloat16, which
    costs time on most CPUs."""
    seed: int = 0
    """Seed of the initial parameters, the order of the data, noise, dropout and augmentation."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    sample_every: int = 0
    """Steps between sample grids; 0 draws one after the last step only."""
    sample_count: int = 16
    """Images in a sample grid; 0 for no grids."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = 2
    """Number of latest checkpoints that are kept; 0 keeps all."""
    gradient_checkpointing: bool = False
    """Evaluate each block again in the backward pass in place of storing its activations. It saves memory, costs time
    and changes no result."""
    threads: int = 0
    """Number of CPU threads; 0 leaves it to the framework."""

    def __post_init__(self) -> None:
        check_limits(self, "training")
        need = requirements(self, "training")
        for key in ("steps", "batch_size", "accumulate", "log_every", "checkpoint_every"):
            need(getattr(self, key) >= 1, key, "at least 1")
        for key in ("weight_decay", "clip_norm"):
            need(getattr(self, key) >= 0, key, "at least 0")
        need(self.batch_size % self.accumulate == 0, "accumulate", f"a divisor of batch_size {self.batch_size}")
        for key in ("learning_rate", "muon_learning_rate"):
            need(getattr(self, key) > 0, key, "above 0")
        for key in ("decay_start", "final_fraction"):
            need(0 <= getattr(self, key) <= 1, key, "in [0, 1]")
        for key in ("muon_momentum", "beta1", "beta2", "ema_decay", "condition_dropout"):
            need(0 <= getattr(self, key) < 1, key, "in [0, 1)")
        for value in self.ema_profiles:
            allowed = f"above 0 and below {WIDEST_PROFILE:.4f} each"
            require(0 < value < WIDEST_PROFILE, "training.ema_profiles", value, allowed)
        need(len(set(self.ema_profiles)) == len(self.ema_profiles), "ema_profiles", "named once each")
        need(self.p_std > 0, "p_std", "above 0")
        need(self.adam_eps > 0, "adam_eps", "above 0")
        need(self.autocast == "none" or self.dtype == "float32", "autocast", "none where dtype is float64")
