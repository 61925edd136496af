"""Training in TensorFlow: the step that core.training.loop calls. Twin: torch_impl/trainer.py."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from core.config import Recipe
from core.model.unet_spec import initial_weights, param_specs
from core.training.optim import is_decayed
from tf_impl.objective import loss
from tf_impl.sampler import Sampler
from tf_impl.weights import build_unet, from_keras, get_weights, set_weights, to_keras, variables


def set_threads(threads: int) -> None:
    """Limit CPU threads, before TensorFlow has run anything; 0 leaves TensorFlow's choice."""
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def describe() -> dict[str, Any]:
    """What a manifest says of the framework; 0 threads: TensorFlow's choice."""
    gpus = tf.config.list_physical_devices("GPU")
    device = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu") if gpus else "cpu"
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    return {
        "framework": "tensorflow",
        "version": tf.__version__,
        "keras": keras.__version__,
        "threads": threads,
        "device": device,
    }


class Trainer:
    """The network, its average and its optimiser.

    Args:
        recipe: the run; the initial weights are drawn from its training.seed.
    """

    def __init__(self, recipe: Recipe) -> None:
        config = recipe.training
        self.recipe = recipe
        weights = initial_weights(recipe.model, config.seed, config.dtype)
        policy = "mixed_bfloat16" if config.autocast == "bf16" else config.dtype
        self.network = build_unet(recipe.model, weights, policy)
        self.ema = build_unet(recipe.model, weights, config.dtype)
        self.specs = param_specs(recipe.model)
        self.parameters = [v.value for v in variables(self.network).values()]
        self.averages = [v.value for v in variables(self.ema).values()]
        self.decayed = [is_decayed(spec) for spec in self.specs.values()]
        self.exp_avg = [tf.Variable(tf.zeros_like(p)) for p in self.parameters]
        self.exp_avg_sq = [tf.Variable(tf.zeros_like(p)) for p in self.parameters]
        self.adam_steps = tf.Variable(0, dtype=tf.int64)
        self.skipped = tf.Variable(0, dtype=tf.int64)
        self.skipped_in_a_row = tf.Variable(0, dtype=tf.int64)
        self.dropouts = [layer for layer in self.network._flatten_layers() if isinstance(layer, keras.layers.Dropout)]
        self.sampler = Sampler(self.ema)
        self._compiled_loss = tf.function(self._loss_and_gradients)
        self._compiled_update = tf.function(self._update)

    def step(self, batch: dict[str, np.ndarray], scalars: dict[str, float]) -> dict[str, Any]:
        """One optimiser step; see core.training.loop.Trainer."""
        total, gradients = self.gradients(batch, int(scalars["dropout_seed"]))
        # Tensors, not Python floats: those would trace the function again at every new value.
        lr, decay = (tf.constant(scalars[key], tf.float64) for key in ("lr", "ema_decay"))
        norm = self._compiled_update(total, gradients, lr, decay)
        counts = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        return {"loss": total, "grad_norm": norm, **{k: v.read_value() for k, v in counts.items()}}

    def gradients(self, batch: dict[str, np.ndarray], dropout_seed: int) -> tuple[Any, list[Any]]:
        """Loss of a global batch and its gradients."""
        accumulate, total, sums = self.recipe.training.accumulate, 0.0, []
        for i, layer in enumerate(self.dropouts if self.recipe.model.dropout else []):
            layer.seed_generator.state.assign([dropout_seed, i])
        size = len(batch["t"]) // accumulate
        for start in range(0, len(batch["t"]), size):
            part = {key: tf.constant(value[start : start + size]) for key, value in batch.items()}
            value, gradients = self._compiled_loss(part)
            total = total + value
            sums = [a + b for a, b in zip(sums, gradients, strict=True)] if sums else gradients
        return total, sums

    def _loss_and_gradients(self, batch: dict[str, Any]) -> tuple[Any, list[Any]]:
        """The micro-batch's share of the loss, and its gradients."""
        with tf.GradientTape() as tape:
            value = loss(self.network, batch) / self.recipe.training.accumulate
        gradients = tape.gradient(value, self.parameters, unconnected_gradients="zero")
        return value, [tf.convert_to_tensor(g) for g in gradients]  # the class embedding's comes as IndexedSlices

    def _update(self, total: Any, gradients: list[Any], lr: Any, decay: Any) -> Any:
        """Clip, step the optimiser and move the average, or skip a step that is not finite; returns the norm."""
        norm = tf.linalg.global_norm(gradients)
        if tf.math.is_finite(norm) and tf.math.is_finite(total):
            self._apply(gradients, norm, lr, decay)
            self.skipped_in_a_row.assign(0)
        else:
            self.skipped.assign_add(1)
            self.skipped_in_a_row.assign_add(1)
        return norm

    def _apply(self, gradients: list[Any], norm: Any, lr: Any, decay: Any) -> None:
        """Adam or AdamW as torch.optim defines them (core.training.optim.adam_step), then the average."""
        config, dtype = self.recipe.training, norm.dtype
        factor = tf.minimum(tf.cast(1, dtype), config.clip_norm / (norm + 1e-6)) if config.clip_norm else 1.0
        count = tf.cast(self.adam_steps.assign_add(1), tf.float64)
        # Scalars in float64: 1 - beta_2^count in float32 is off by 1e-5 at the first steps.
        step_size = tf.cast(lr / (1 - config.beta1**count), dtype)
        root = tf.cast(tf.sqrt(1 - config.beta2**count), dtype)
        lr, rest = tf.cast(lr, dtype), tf.cast(1 - decay, dtype)
        state = zip(self.parameters, self.averages, self.exp_avg, self.exp_avg_sq, gradients, self.decayed, strict=True)
        for p, average, m, v, g, decayed in state:
            g, weight_decay = g * factor, config.weight_decay * decayed
            if weight_decay and config.optimizer == "adamw":
                p.assign_sub(lr * weight_decay * p)
            elif weight_decay:
                g = g + weight_decay * p
            m.assign_add((1 - config.beta1) * (g - m))
            v.assign(config.beta2 * v + (1 - config.beta2) * g * g)
            p.assign_sub(step_size * m / (tf.sqrt(v) / root + config.adam_eps))
            average.assign_add(rest * (p - average))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, int]]:
        """EMA weights, training state and counters; see core.training.loop.Trainer."""
        state = {f"params/{name}": value for name, value in get_weights(self.network).items()}
        for part, moments in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
            for (name, spec), value in zip(self.specs.items(), moments, strict=True):
                state[f"{part}/{name}"] = from_keras(spec.kind, value.numpy())
        names = ("adam_steps", "skipped", "skipped_in_a_row")
        return get_weights(self.ema), state, {name: int(getattr(self, name).numpy()) for name in names}

    def load(self, ema: dict[str, np.ndarray], state: dict[str, np.ndarray], counters: dict[str, int]) -> None:
        """Go back to a state."""
        set_weights(self.ema, ema)
        set_weights(self.network, {name: state[f"params/{name}"] for name in self.specs})
        for part, moments in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
            for (name, spec), variable in zip(self.specs.items(), moments, strict=True):
                variable.assign(to_keras(spec.kind, state[f"{part}/{name}"]))
        for name in ("adam_steps", "skipped", "skipped_in_a_row"):
            getattr(self, name).assign(counters[name])

    def ema_sampler(self) -> Sampler:
        """The executor over the EMA weights."""
        return self.sampler
