"""Recipes: what a run is, as frozen dataclasses.

Each dataclass validates itself where it is made. Flags of the command line come from these fields; core.recipes reads and
writes them as files.
This module imports no framework.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")
UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
BASELINE_KEYS = ("sample_size", "in_channels", "out_channels", "block_out_channels", "num_class_embeds")
"""What the baseline network can be told; every other key of ModelConfig is the U-Net's alone."""

Architecture = Literal["unet", "baseline"]
Schedule = Literal["linear", "scaled_linear", "cosine", "sigmoid", "flow", "edm"]
Prediction = Literal["eps", "x0", "v", "flow", "edm"]
LossWeight = Literal["simple", "min_snr", "p2", "edm"]
Sampler = Literal[
    "ddpm", "ddim", "dpmsolver++", "dpmsolver++2s", "dpmsolver++3m", "sde-dpmsolver++", "unipc", "ipndm", "euler", "heun",
    "flow_euler", "flow_heun",
]  # fmt: skip
Spacing = Literal["leading", "trailing", "linspace", "quadratic", "log_snr", "karras"]
Variance = Literal["fixed_small", "fixed_large", "learned"]
Fit = Literal["exact", "resize", "crop", "pad"]
Normalise = Literal["none", "dataset", "image"]
ExtractorName = Literal["lens", "inception"]
Resize = Literal["clean", "legacy"]


def require(ok: bool, where: str, value: object, allowed: str) -> None:
    """Raise ValueError where a value is not what it must be."""
    if not ok:
        raise ValueError(f"{where} = {value!r}: must be {allowed}")


@dataclass(frozen=True)
class ModelConfig:
    """The network, in the keys of diffusers' `UNet2DModel` configuration."""

    sample_size: tuple[int, int] = (64, 64)
    """Image height and width in pixels; each must be divisible by 2^(levels - 1)."""
    in_channels: int = 1
    """Channels of the network's input: the image's, and condition_channels."""
    out_channels: int = 1
    """Channels of the network's output: the image's."""
    center_input_sample: bool = False
    """Map the input from [0, 1] to [-1, 1] inside the network."""
    freq_shift: int = 0
    """Shift in the exponent's denominator of the time embedding (1 in the original DDPM)."""
    flip_sin_to_cos: bool = True
    """Time embedding as [cos, sin] rather than [sin, cos]."""
    down_block_types: tuple[str, ...] = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
    """One block a level, from full resolution down."""
    mid_block_type: str | None = "UNetMidBlock2D"
    """UNetMidBlock2D, or none for no middle block."""
    up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
    """One block a level, from the lowest resolution up."""
    block_out_channels: tuple[int, ...] = (32, 64, 64)
    """Channels of each level."""
    layers_per_block: int = 2
    """Residual blocks a level going down (one more going up)."""
    mid_block_scale_factor: float = 1.0
    """Divisor of the middle block's residual sums."""
    downsample_padding: int = 1
    """Padding of the stride-2 convolution: 1 (both sides) or 0 (right and bottom only, as the original DDPM)."""
    downsample_type: str = "conv"
    """How AttnDownBlock2D halves the image: conv or resnet."""
    upsample_type: str = "conv"
    """How AttnUpBlock2D doubles the image: conv or resnet."""
    dropout: float = 0.0
    """Dropout probability inside residual blocks."""
    act_fn: str = "silu"
    """Activation: silu or gelu (exact, with erf)."""
    attention_head_dim: int | None = 8
    """Channels an attention head; none for one head."""
    norm_num_groups: int = 32
    """Groups of every GroupNorm."""
    attn_norm_num_groups: int | None = None
    """Groups of the middle attention's GroupNorm; none for norm_num_groups (and, with scale_shift, no norm)."""
    norm_eps: float = 1e-5
    """Epsilon of every GroupNorm."""
    resnet_time_scale_shift: str = "default"
    """How time enters a residual block: default (added) or scale_shift."""
    add_attention: bool = True
    """Attention in the middle block."""
    num_class_embeds: int | None = None
    """Number of classes of a class-conditional network, one more for no class where training.condition_dropout is above
    0; none for an unconditional one."""
    vector_channels: int = 0
    """Numbers that an image is asked for by, one each of data.condition; 0 for none."""
    condition_channels: int = 0
    """Channels of an image that is given as a condition, among in_channels; 0 for none."""
    architecture: Architecture = "unet"
    """unet, or baseline: the plain U-Net that this one is compared with, whose block_out_channels are c, 2c, 4c, 4c and
    which leaves every key but the sizes, channels and classes at its default."""

    def __post_init__(self) -> None:
        for key in ("in_channels", "out_channels"):
            require(getattr(self, key) >= 1, f"model.{key}", getattr(self, key), "at least 1")
        require(self.num_class_embeds is None or self.num_class_embeds >= 1, "model.num_class_embeds", self.num_class_embeds, "at least 1, or null")  # fmt: skip
        require(self.vector_channels >= 0, "model.vector_channels", self.vector_channels, "at least 0")
        require(0 <= self.condition_channels < self.in_channels, "model.condition_channels", self.condition_channels, f"at least 0 and below in_channels {self.in_channels}")  # fmt: skip
        if self.architecture == "baseline":
            self._check_baseline()
        else:
            self._check_unet()
        self.check_size(*self.sample_size)

    def _check_baseline(self) -> None:
        for f in dataclasses.fields(self):
            if f.name not in (*BASELINE_KEYS, "architecture"):
                require(getattr(self, f.name) == f.default, f"model.{f.name}", getattr(self, f.name), f"left out where architecture is baseline, which has only {', '.join(BASELINE_KEYS)}")  # fmt: skip
        first = self.block_out_channels[0] if self.block_out_channels else 0
        fits = first >= 4 and first % 4 == 0 and self.block_out_channels == (first, 2 * first, 4 * first, 4 * first)
        require(fits, "model.block_out_channels", self.block_out_channels, "(c, 2c, 4c, 4c) with c a multiple of 4 where architecture is baseline, such as (64, 128, 256, 256)")  # fmt: skip

    def _check_unet(self) -> None:
        levels = len(self.block_out_channels)
        require(levels >= 1, "model.block_out_channels", self.block_out_channels, "one channel count a level")
        require(
            len(self.down_block_types) == levels == len(self.up_block_types),
            "model.down_block_types",
            self.down_block_types,
            f"as long as block_out_channels ({levels}), and so must up_block_types",
        )
        for name in self.down_block_types:
            require(name in DOWN_BLOCKS, "model.down_block_types", name, f"one of {', '.join(DOWN_BLOCKS)}")
        for name in self.up_block_types:
            require(name in UP_BLOCKS, "model.up_block_types", name, f"one of {', '.join(UP_BLOCKS)}")
        require(self.mid_block_type in ("UNetMidBlock2D", None), "model.mid_block_type", self.mid_block_type, "UNetMidBlock2D or null")  # fmt: skip
        for key, allowed in (
            ("act_fn", ("silu", "gelu")),
            ("downsample_type", ("conv", "resnet")),
            ("upsample_type", ("conv", "resnet")),
            ("resnet_time_scale_shift", ("default", "scale_shift")),
            ("downsample_padding", (0, 1)),
            ("freq_shift", (0, 1)),
        ):
            require(getattr(self, key) in allowed, f"model.{key}", getattr(self, key), f"one of {allowed}")
        for key in ("layers_per_block", "norm_num_groups"):
            require(getattr(self, key) >= 1, f"model.{key}", getattr(self, key), "at least 1")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")
        require(self.norm_eps > 0, "model.norm_eps", self.norm_eps, "above 0")
        require(self.mid_block_scale_factor > 0, "model.mid_block_scale_factor", self.mid_block_scale_factor, "above 0")
        require(min(self.block_out_channels) >= 4 and self.block_out_channels[0] % 2 == 0, "model.block_out_channels", self.block_out_channels, "at least 4 each, the first even")  # fmt: skip
        for channels in self.block_out_channels:
            require(channels % self.norm_num_groups == 0, "model.norm_num_groups", self.norm_num_groups, f"a divisor of every block_out_channels {self.block_out_channels}")  # fmt: skip
        levels_with_attention = {c for c, name in zip(self.block_out_channels, self.down_block_types, strict=True) if name == "AttnDownBlock2D"}  # fmt: skip
        levels_with_attention |= {c for c, name in zip(reversed(self.block_out_channels), self.up_block_types, strict=True) if name == "AttnUpBlock2D"}  # fmt: skip
        if self.mid_block_type and self.add_attention:
            levels_with_attention.add(self.block_out_channels[-1])
        for channels in levels_with_attention:
            head = self.attention_head_dim or channels
            require(channels % head == 0, "model.attention_head_dim", head, f"a divisor of {channels}, the channels of a level with attention")  # fmt: skip
        if self.attn_norm_num_groups is not None:
            require(self.block_out_channels[-1] % self.attn_norm_num_groups == 0, "model.attn_norm_num_groups", self.attn_norm_num_groups, f"a divisor of {self.block_out_channels[-1]}")  # fmt: skip

    def check_condition(self, labels: object = None, vector: object = None, image: object = None) -> None:
        """Raise ValueError where a condition is given to a network that does not take it, or is missing for one that does."""
        for name, value, key in (("labels", labels, "num_class_embeds"), ("vector", vector, "vector_channels"), ("image", image, "condition_channels")):  # fmt: skip
            if (value is not None) != bool(getattr(self, key)):
                raise ValueError(f"{name}: {'missing' if value is None else 'given'}, but {key} = {getattr(self, key)}")

    @property
    def conditional(self) -> bool:
        """Whether the network is told anything of an image but its noise level."""
        return bool(self.num_class_embeds or self.vector_channels or self.condition_channels)

    @property
    def image_channels(self) -> int:
        """Channels of the image that is drawn."""
        return self.in_channels - self.condition_channels

    @property
    def downscale(self) -> int:
        """Factor by which the lowest level is smaller than the image: 2^(levels - 1)."""
        return 1 << (len(self.block_out_channels) - 1)

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError, naming sizes that fit, where the network cannot take an image of this size."""
        for name, value in (("height", height), ("width", width)):
            if value < self.downscale or value % self.downscale:
                low = max(self.downscale, value // self.downscale * self.downscale)
                raise ValueError(
                    f"model.sample_size: {name} {value} is not divisible by {self.downscale}, which a network of "
                    f"{len(self.block_out_channels)} levels needs; {low} or {low + self.downscale} fits"
                )


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
        for key in ("min_snr_gamma", "p2_k"):
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


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they are prepared; their size and channels are the model's."""

    source: str = "simulate:lensing"
    """simulate:lensing, simulate:model-1, or a path: a folder or zip of .npy files or pictures, a .npy/.npz file, an
    IDX file (plain or .gz)."""
    simulate_count: int = 10_000
    """Number of images to simulate."""
    simulate_seed: int = 0
    """Seed of the simulator."""
    simulate_classes: tuple[str, ...] = ("no", "sphere", "vort")
    """Substructure classes to simulate, in equal shares."""
    field_of_view: float = 7.5
    """Side of a simulated image in arcsec (the shorter side where height and width differ)."""
    fit: Fit = "exact"
    """What to do with an image of another size: exact refuses it; resize (antialiased bicubic), crop (centre), pad
    (with zeros)."""
    normalise: Normalise = "none"
    """none: values must lie in [0, 1] (integers are divided by their type's maximum); dataset: min-max over all images; image: min-max
    of each image."""
    held_out: float = 0.1
    """Share of images kept out of training, chosen by the hash of their pixels."""
    condition: tuple[str, ...] = ()
    """Parameters of the images that a network of as many model.vector_channels is given, such as theta_e."""
    low_resolution: int = 0
    """Factor by which an image is made smaller and put beside itself as a condition, for super-resolution; 0 for none."""
    augment: bool = False
    """Random rotations by 90 degrees and flips (the eight symmetries of the square; four where H != W)."""
    cache: str = "data/cache"
    """Folder of prepared data sets."""

    def __post_init__(self) -> None:
        require(self.source != "", "data.source", self.source, "simulate:PRESET or a path")
        require(self.simulate_count >= 2, "data.simulate_count", self.simulate_count, "at least 2")
        require(0 <= self.simulate_seed < 2**63, "data.simulate_seed", self.simulate_seed, "in [0, 2^63)")
        for name in self.simulate_classes:
            require(name in ("no", "sphere", "vort"), "data.simulate_classes", name, "among no, sphere, vort")
        require(len(self.simulate_classes) > 0, "data.simulate_classes", self.simulate_classes, "at least one class")
        require(len(set(self.simulate_classes)) == len(self.simulate_classes), "data.simulate_classes", self.simulate_classes, "classes named once each")  # fmt: skip
        require(self.field_of_view > 0, "data.field_of_view", self.field_of_view, "above 0")
        require(len(set(self.condition)) == len(self.condition), "data.condition", self.condition, "parameters named once each")  # fmt: skip
        require(self.low_resolution == 0 or self.low_resolution >= 2, "data.low_resolution", self.low_resolution, "0, or at least 2")  # fmt: skip
        require(0 <= self.held_out < 1, "data.held_out", self.held_out, "in [0, 1)")


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
    ema_decay: float = 0.9999
    """Decay of the weights' moving average, warmed up as min(ema_decay, (1 + n) / (10 + n))."""
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
        require(self.adam_eps > 0, "training.adam_eps", self.adam_eps, "above 0")
        require(0 <= self.seed < 2**63, "training.seed", self.seed, "in [0, 2^63)")
        if self.autocast == "bf16":
            require(self.dtype == "float32", "training.autocast", self.autocast, "none where dtype is float64")


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


@dataclass(frozen=True)
class EvaluationConfig:
    """The distance to held-out images, measured while the network trains."""

    every: int = 0
    """Optimiser steps between evaluations; 0 for none."""
    n: int = 1000
    """Images drawn at each, and held-out images that they are compared with."""
    extractor: ExtractorName = "lens"
    """Network whose features are compared: lens (of strong lenses, one channel) or inception (once fetched)."""
    seed: int = 0
    """Seed of the images drawn; the same at every evaluation."""

    def __post_init__(self) -> None:
        require(self.every >= 0, "evaluation.every", self.every, "at least 0")
        require(self.n >= 2, "evaluation.n", self.n, "at least 2")
        require(0 <= self.seed < 2**63, "evaluation.seed", self.seed, "in [0, 2^63)")


@dataclass(frozen=True)
class Recipe:
    """Everything that defines a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if self.model.image_channels != self.model.out_channels:
            beside = f" - condition_channels {self.model.condition_channels}" if self.model.condition_channels else ""
            raise ValueError(
                f"model.out_channels = {self.model.out_channels}: must equal in_channels {self.model.in_channels}{beside}"
            )
        require(self.sampling.steps <= self.process.timesteps, "sampling.steps", self.sampling.steps, f"at most process.timesteps {self.process.timesteps}")  # fmt: skip
        if self.training.gradient_checkpointing:
            require(self.model.architecture == "unet", "training.gradient_checkpointing", True, "false where model.architecture is baseline")  # fmt: skip
            require(self.model.dropout == 0, "training.gradient_checkpointing", True, f"false where model.dropout = {self.model.dropout}, whose masks would be drawn anew")  # fmt: skip
        if self.data.augment and self.data.source.startswith("simulate:"):
            raise ValueError(
                f"data.augment = true with {self.data.source}: its shear has a fixed direction, which rotations change; use false"
            )
        self._check_condition()

    def _check_condition(self) -> None:
        names, drops = self.data.condition, self.training.condition_dropout > 0
        require(len(names) == self.model.vector_channels, "data.condition", names, f"as many names as model.vector_channels = {self.model.vector_channels}")  # fmt: skip
        factor, beside = self.data.low_resolution, self.model.condition_channels
        require(not factor or beside == self.model.image_channels, "model.condition_channels", beside, f"the image's {self.model.image_channels} with data.low_resolution")  # fmt: skip
        require(not factor or not any(side % factor for side in self.model.sample_size), "data.low_resolution", factor, f"a divisor of model.sample_size {self.model.sample_size}")  # fmt: skip
        require(not (names and self.data.augment), "data.augment", self.data.augment, "false with data.condition, whose values rotations change")  # fmt: skip
        conditional = bool(self.model.num_class_embeds or names)
        require(conditional or not drops, "training.condition_dropout", self.training.condition_dropout, "0 where there are neither classes nor data.condition")  # fmt: skip
        require(drops or self.sampling.guidance == 1, "sampling.guidance", self.sampling.guidance, "1 without training.condition_dropout, since nothing was trained to be weak")  # fmt: skip
        require(self.classes != 0, "model.num_class_embeds", self.model.num_class_embeds, "at least 2 with training.condition_dropout, one of them for no class")  # fmt: skip

    @property
    def classes(self) -> int | None:
        """Classes that an image can have: not the one that stands for none."""
        embedded = self.model.num_class_embeds
        return None if embedded is None else embedded - (self.training.condition_dropout > 0)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image."""
        return (*self.model.sample_size, self.model.image_channels)
