"""Faults of which the parity ladder must find every one: what `python -m tests.mutations` does to a copy of the checkout.

A fault in core alters both frameworks alike, and shows against closed forms alone (rungs 1 to 4) or between two ways to
the same images (rung 9); one in a twin shows against the other.
"""

import dataclasses
from dataclasses import dataclass

from core.config import ModelConfig, ProcessConfig, Recipe, SamplingConfig


@dataclass(frozen=True)
class Fault:
    """A piece of a file, what it becomes, and the rung that must turn red first."""

    name: str
    file: str
    old: str
    """Stands in the file exactly once."""
    new: str
    rung: int
    recipe: str = "classes"


_SMALL = ModelConfig(
    sample_size=(8, 12),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
    dropout=0.1,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
)
RECIPES: dict[str, Recipe] = {
    # Time added, classes, weights by SNR, padding on both sides; small, since the later rungs are climbed with it.
    "classes": Recipe(
        dataclasses.replace(_SMALL, mid_block_type=None, norm_eps=1e-6, num_class_embeds=3),
        ProcessConfig(timesteps=100, schedule="cosine", prediction="v", loss_weight="min_snr"),
        sampling=SamplingConfig("ddim", 10),
    ),
    # Time as scale and shift, the original DDPM's padding and sinusoids, gelu, two channels, equal widths.
    "shift": Recipe(
        dataclasses.replace(
            _SMALL,
            in_channels=2,
            out_channels=2,
            block_out_channels=(8, 8),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            downsample_padding=0,
            freq_shift=1,
            flip_sin_to_cos=False,
            act_fn="gelu",
            resnet_time_scale_shift="scale_shift",
            attn_norm_num_groups=2,
        ),
        ProcessConfig(timesteps=100),
        sampling=SamplingConfig("ddpm", 10, variance="fixed_large"),
    ),
}
"""What the ladder is climbed with: tiny networks that between them use every option that a fault touches."""

TABLES = (
    Fault(
        "the sign of v", "core/diffusion/predictions.py",
        "a, b, determinant = -noise, signal.copy(), ones", "a, b, determinant = noise, -signal, -ones", 1,
    ),
    Fault(
        "alphas_cumprod one level off", "core/diffusion/process.py",
        "alphas_cumprod, signal = np.exp(log_alphas_cumprod), np.exp(0.5 * log_alphas_cumprod)",
        "log_alphas_cumprod = np.append(np.log1p(-betas[0]) / 2, log_alphas_cumprod[:-1])\n"
        "    alphas_cumprod, signal = np.exp(log_alphas_cumprod), np.exp(0.5 * log_alphas_cumprod)", 1,
    ),
    Fault(
        "min-SNR weights cut from below", "core/diffusion/predictions.py",
        "of_x0 = np.minimum(snr, config.min_snr_gamma)", "of_x0 = np.maximum(snr, config.min_snr_gamma)", 1,
    ),
    Fault(
        "the average's decay one step late", "core/training/optim.py",
        "    n = step + 1\n    return min(config.ema_decay", "    n = step\n    return min(config.ema_decay", 1,
    ),
    Fault(
        "freq_shift left out", "core/networks/specs.py", "/ (half - config.freq_shift)", "/ half", 1, "shift",
    ),
    Fault("weight decay on biases, in core", "core/training/optim.py", "len(spec.shape) >= 2", "len(spec.shape) >= 1", 2),
    Fault(
        "kernels read from Keras as IOHW", "tf_impl/weights.py",
        'FROM_KERAS: dict[Kind, tuple[int, ...]] = {"conv": (3, 2, 0, 1)',
        'FROM_KERAS: dict[Kind, tuple[int, ...]] = {"conv": (2, 3, 0, 1)', 2,
    ),
    Fault(
        "noise of every step the same", "core/random.py",
        "counter = np.array([0, 0, step, PURPOSES[purpose]]", "counter = np.array([0, 0, 0, PURPOSES[purpose]]", 3,
    ),
    Fault(
        "coefficients of the level below", "core/diffusion/process.py",
        "gathered = _rows(process, t, ", "gathered = _rows(process, np.maximum(t - 1, 0), ", 3,
    ),
    Fault(
        "noise of training by place alone", "core/training/training.py",
        '"training_eps", samples, step,', '"training_eps", samples, 0,', 3,
    ),
    Fault(
        "images left in [0, 1]", "core/training/training.py",
        "from_unit(images.astype(config.dtype))", "images.astype(config.dtype)", 3,
    ),
)  # fmt: skip

SAMPLERS = (
    Fault(
        "the variance of DDPM from the wrong level", "core/diffusion/ancestral.py",
        "small = float(then.noise * np.sqrt(gain))", "small = float(now.noise * (then.noise > 0) * np.sqrt(gain))", 4,
    ),
    Fault(
        "extrapolation backwards in DPM-Solver++", "core/diffusion/dpm_solver.py",
        "weights -= 0.5 * then.signal * phi_1 * first", "weights += 0.5 * then.signal * phi_1 * first", 4,
    ),
    Fault(
        "noise added before the matrix", "torch_impl/sampler.py",
        """            entries = [*state, x_0, raw]
            state = [sum(float(m) * e for m, e in zip(line, entries, strict=True) if m != 0) for line in row.matrix]
            if row.s != 0:
                state[0] = state[0] + deviation(row, output[:, channels:]) * to_device(noise(index))
""",
        """            if row.s != 0:
                state[0] = state[0] + deviation(row, output[:, channels:]) * to_device(noise(index))
            entries = [*state, x_0, raw]
            state = [sum(float(m) * e for m, e in zip(line, entries, strict=True) if m != 0) for line in row.matrix]
""", 4,
    ),
    Fault(
        "the predicted image not clipped", "tf_impl/sampler.py",
        "return tf.clip_by_value(raw, -1, 1)", "return raw", 4,
    ),
    Fault(
        "the next row's noise", "tf_impl/sampler.py", "tf.constant(noise(index))", "tf.constant(noise(index + 1))", 4,
    ),
)  # fmt: skip

NETWORKS = (
    Fault(
        "SAME padding of a strided convolution", "tf_impl/layers.py",
        "before = self.padding\n", "before = 0\n", 5,
    ),
    Fault(
        "padding on the left and the top", "torch_impl/layers.py", "F.pad(x, (0, 1, 0, 1))", "F.pad(x, (1, 0, 1, 0))",
        5, "shift",
    ),
    Fault(
        "GroupNorm's epsilon 1e-5 for 1e-6", "tf_impl/layers.py",
        "self.groups, self.channels, self.eps = groups, channels, eps",
        "self.groups, self.channels, self.eps = groups, channels, 1e-5", 5,
    ),
    Fault(
        "sine and cosine exchanged", "torch_impl/layers.py",
        "(angle.cos(), angle.sin()) if self.flip else (angle.sin(), angle.cos())",
        "(angle.sin(), angle.cos()) if self.flip else (angle.cos(), angle.sin())", 5,
    ),
    Fault(
        "the time embedding in float32", "tf_impl/layers.py",
        "angle = ops.cast(t, self.variable_dtype)[:, None] * self.frequencies",
        'angle = ops.cast(ops.cast(t, "float32")[:, None] * self.frequencies.astype("float32"), self.variable_dtype)', 5,
    ),
    Fault(
        "queries and keys both scaled", "tf_impl/layers.py",
        "ops.transpose(k, (0, 1, 3, 2)))", "ops.transpose(k * (C // self.heads) ** -0.5, (0, 1, 3, 2)))", 5,
    ),
    Fault(
        "scale and shift exchanged", "torch_impl/layers.py",
        "scale, shift = time.chunk(2, dim=1)", "shift, scale = time.chunk(2, dim=1)", 5, "shift",
    ),
    Fault(
        "gelu by tanh", "tf_impl/layers.py",
        "0.5 * x * (1.0 + ops.erf(x * (1.0 / math.sqrt(2.0))))", "ops.gelu(x, approximate=True)", 5, "shift",
    ),
    Fault(
        "kernels transposed in space", "tf_impl/weights.py",
        'TO_KERAS: dict[Kind, tuple[int, ...]] = {"conv": (2, 3, 1, 0), "linear": (1, 0)}  # OIHW -> HWIO, (out, in) -> (in, out)\n'
        'FROM_KERAS: dict[Kind, tuple[int, ...]] = {"conv": (3, 2, 0, 1)',
        'TO_KERAS: dict[Kind, tuple[int, ...]] = {"conv": (3, 2, 1, 0), "linear": (1, 0)}\n'
        'FROM_KERAS: dict[Kind, tuple[int, ...]] = {"conv": (3, 2, 1, 0)', 5,
    ),
    Fault(
        "square matrices not transposed", "tf_impl/weights.py",
        "return value.transpose(TO_KERAS[kind]) if kind in TO_KERAS else value",
        "square = value.ndim == 2 and value.shape[0] == value.shape[1]\n"
        '    return value.transpose(TO_KERAS[kind]) if kind == "conv" or (kind == "linear" and not square) else value', 5,
    ),
    Fault(
        "the skip before the image", "torch_impl/unet.py",
        "torch.cat([x, skips.pop()], dim=1)", "torch.cat([skips.pop(), x], dim=1)", 5, "shift",
    ),
    Fault(
        "a level's skips in the order they came", "tf_impl/unet.py", "skips.pop()]",
        "skips.pop(-2 if len(skips) > 1 and skips[-2].shape == skips[-1].shape else -1)]", 5,
    ),
)  # fmt: skip

TRAINING = (
    Fault("the loss not weighted", "torch_impl/objective.py", 'return batch["weight"] * error\n', "return error\n", 6),
    Fault(
        "micro-batches summed, not averaged", "tf_impl/trainer.py",
        "value = tf.reduce_mean(each) / self.recipe.training.accumulate", "value = tf.reduce_mean(each)", 6,
    ),
    Fault(
        "Keras's epsilon, before the bias correction", "tf_impl/trainer.py",
        "m / (tf.sqrt(v) / root + config.adam_eps)", "m * root / (tf.sqrt(v) + config.adam_eps)", 6,
    ),
    Fault(
        "no bias correction", "tf_impl/trainer.py",
        "root = tf.cast(tf.sqrt(1 - config.beta2**count), dtype)", "root = tf.ones((), dtype)", 6,
    ),
    Fault(
        "each tensor clipped by itself", "tf_impl/trainer.py",
        "g = g * tf.minimum(tf.cast(1, dtype), config.clip_norm / (norm + 1e-6))",
        "g = self._flatten([tf.clip_by_norm(part, config.clip_norm) for part in self._split(g)])", 6,
    ),
    Fault(
        "weight decay on biases, in one twin", "tf_impl/trainer.py", "float(is_decayed(spec))", "1.0", 6,
    ),
    Fault(
        "the average moved before the step", "torch_impl/trainer.py",
        """        self.optimizer.step()
        torch._foreach_lerp_(list(self.ema.parameters()), self.parameters, 1 - scalars["ema_decay"])
""",
        """        torch._foreach_lerp_(list(self.ema.parameters()), self.parameters, 1 - scalars["ema_decay"])
        self.optimizer.step()
""", 6,
    ),
    Fault(
        "Adam's count forgotten at loading", "torch_impl/trainer.py",
        'torch.tensor(float(counters["adam_steps"])', "torch.tensor(0.0", 7,
    ),
    Fault("moments exchanged at loading", "tf_impl/trainer.py", '"exp_avg": self.exp_avg,\n', '"exp_avg": self.exp_avg_sq,\n', 7),
    Fault(
        "going on from the average", "tf_impl/trainer.py",
        'set_weights(self.network, named["params"])', "set_weights(self.network, ema)", 8,
    ),
)  # fmt: skip

IMAGES = (
    Fault(
        "dropout left on in sampling", "torch_impl/sampler.py",
        "build_unet(model, weights, dtype).to(device).requires_grad_(False)",
        "build_unet(model, weights, dtype).to(device).requires_grad_(False).train()", 9,
    ),
    Fault(
        "starting noise by place in the batch", "core/inference/sampling.py",
        "[self.samples[i] for i in part]",
        '[self.samples[i - part[0] if purpose == "x_T" else i] for i in part]', 9,
    ),
    Fault(
        "step noise by place in the batch", "core/inference/sampling.py",
        "[self.samples[i] for i in part]",
        '[self.samples[i - part[0] if purpose == "sampler" else i] for i in part]', 9,
    ),
    Fault(
        "every batch with the first one's classes", "core/inference/sampling.py",
        "{name: value[part] for name", "{name: value[: len(part)] for name", 9,
    ),
)  # fmt: skip

FAULTS = (*TABLES, *SAMPLERS, *NETWORKS, *TRAINING, *IMAGES)
