"""The optimiser step in TensorFlow, which core.training calls. Twin: torch_impl/trainer.py."""

from __future__ import annotations

import contextlib
import logging
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from core.config import Recipe
from core.networks.specs import check_weights, initial_weights, param_specs
from core.training.optim import COMPILED_FROM, is_decayed, muon_scale, muon_stacks
from core.training.ranks import Ranks
from tf_impl.device import device_name, on_device, pick_device, tf32
from tf_impl.kernel import compiled_layers
from tf_impl.muon import orthogonalise
from tf_impl.objective import losses
from tf_impl.ranks import replicated
from tf_impl.sampler import Network
from tf_impl.weights import build_unet, from_keras, set_weights, to_keras, variables

logger = logging.getLogger(__name__)

Placed = list[dict[str, Any]]
"""The micro-batches of an optimiser step on the device, as put() returns them."""


def set_threads(threads: int) -> None:
    """Limit the number of CPU threads, before TensorFlow has computed anything; 0 leaves it to TensorFlow."""
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def describe(device: str = "auto") -> dict[str, Any]:
    """Entries of a manifest: framework, versions, number of threads (0 is TensorFlow's choice) and device."""
    name = device_name(pick_device(device))
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    return {
        "framework": "tensorflow",
        "version": tf.__version__,
        "keras": keras.__version__,
        "threads": threads,
        "device": name,
    }


class Trainer:
    """The network, its averages and its optimiser; see core.training.training.Trainer.

    Args:
        recipe: the recipe to train. The initial weights are drawn from its training.seed.
        device: where to train; see pick_device().
        compiled: whether XLA compiles the loss and its gradients. None does so on an NVIDIA GPU, for
            COMPILED_FROM steps and more. Where it fails, a line in the log says so, and the training goes on without.
        ranks: the processes that train together; None trains alone.
    """

    def __init__(
        self, recipe: Recipe, device: str = "auto", compiled: bool | None = None, ranks: Ranks | None = None
    ) -> None:
        self.recipe, self.device = recipe, pick_device(device, recipe.training.dtype)
        self.ranks: Any = ranks or Ranks()
        if compiled is None:
            compiled = "GPU" in self.device and recipe.training.steps >= COMPILED_FROM
        self.compiled, self.asynchronous = compiled, "GPU" in self.device
        # It joins sums of gradients to sums of more, and which of these is added first depends on free memory.
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
        with tf.device(self.device) if self.ranks.replicas == 1 else self._replicated():
            self._make()

    def _replicated(self) -> contextlib.AbstractContextManager[None]:
        """Where every replica gets a copy of each variable."""
        return replicated(self.ranks.strategy)

    def _make(self) -> None:
        """Make the networks, the averages and the optimiser's variables."""
        recipe, config = self.recipe, self.recipe.training
        weights = initial_weights(recipe.model, config.seed, config.dtype)
        policy = "mixed_bfloat16" if config.autocast == "bf16" else config.dtype
        self.network = build_unet(recipe.model, weights, policy)
        if config.gradient_checkpointing:
            self.network.gradient_checkpointing = True
        self.specs = param_specs(recipe.model)
        self.parameters = [v.value for v in variables(self.network).values()]
        # All parameters as one vector, so that an optimiser step is some ten operations and not some ten a parameter.
        # Muon's come last, equal shapes side by side.
        self.stacks = muon_stacks(config, self.specs)
        names = list(self.specs)
        last = [names.index(name) for stack in self.stacks.values() for name in stack]
        self.order = [*(i for i in range(len(names)) if i not in last), *last]
        self.flat = tf.Variable(self._flatten(self.parameters))
        self.average = tf.Variable(self.flat)
        self.profiles = [tf.Variable(self.flat) for _ in config.ema_profiles]
        self.momentum = tf.Variable(tf.zeros(sum(math.prod(self.specs[names[i]].shape) for i in last), config.dtype))
        adams = self.flat.shape[0] - self.momentum.shape[0]
        self.exp_avg, self.exp_avg_sq = (tf.Variable(tf.zeros_like(self.flat[:adams])) for _ in range(2))
        self.adam_steps = tf.Variable(0, dtype=tf.int64)
        self.skipped = tf.Variable(0, dtype=tf.int64)
        self.skipped_in_a_row = tf.Variable(0, dtype=tf.int64)
        self.dropouts = [layer for layer in self.network._flatten_layers() if isinstance(layer, keras.layers.Dropout)]
        self.averaged: Network | None = None  # made when it is first asked for
        self._compiled_loss = tf.function(self._loss_and_gradients, autograph=False, jit_compile=self.compiled)
        self._compiled_update = tf.function(self._update, autograph=False)
        self._compiled_step = tf.function(self._replicated_step, autograph=False)

    @on_device
    def put(self, batch: dict[str, np.ndarray]) -> Placed:
        """A batch on the device, as micro-batches; see core.training.training.Trainer."""
        count, devices = len(batch["t"]), self.ranks.devices
        size = count // devices // self.recipe.training.accumulate

        def parts(first: int) -> Placed:
            return [
                {key: tf.constant(value[start : start + size]) for key, value in batch.items()}
                for start in range(first, first + count // devices, size)
            ]

        if self.ranks.replicas == 1:
            return parts(0)
        return self.ranks.strategy.experimental_distribute_values_from_function(
            lambda context: parts(context.replica_id_in_sync_group % devices * (count // devices))
        )

    @on_device
    def step(self, placed: Placed, scalars: dict[str, float]) -> dict[str, Any]:
        """One optimiser step; see core.training.training.Trainer."""
        # Tensors, since a new value of a Python float would trace the function again.
        lr, muon_lr, decay = (tf.constant(scalars[key], tf.float64) for key in ("lr", "muon_lr", "ema_decay"))
        profiles = tf.constant([scalars[f"profile_decay_{i}"] for i in range(len(self.profiles))], tf.float64)
        seed = int(scalars["dropout_seed"])
        if self.ranks.replicas == 1:
            total, gradients = self.gradients(placed, seed)
            norm = self._compiled_update(total, gradients, lr, muon_lr, decay, profiles)
        else:
            rates = (lr, muon_lr, decay, profiles)
            found = self._compiled_step(placed, tf.constant(seed, tf.int64), rates)
            results = [self.ranks.strategy.experimental_local_results(value) for value in found]
            (total, *_), (norm, *_) = results[:2]
            self.losses = results[2]
        counts = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        each = {}
        if self.recipe.training.timestep_sampling == "importance":
            own = self.losses if self.ranks.replicas == 1 else tf.concat(self.losses, axis=0)
            each["losses"] = self.ranks.gather(own.numpy())
        return {"loss": total, "grad_norm": norm, **each, **{k: v.read_value() for k, v in counts.items()}}

    def _replicated_step(self, placed: Placed, dropout_seed: Any, rates: tuple[Any, ...]) -> tuple[Any, Any, Any]:
        """One optimiser step of all replicas: the loss, the gradients' norm, and the loss of each image, by replica."""
        return self.ranks.strategy.run(self._replica_step, (placed, dropout_seed, rates))

    def _replica_step(self, placed: Placed, dropout_seed: Any, rates: tuple[Any, ...]) -> tuple[Any, Any, Any]:
        """As _replicated_step(), in a replica. The gradients are summed over all replicas, and each one's update is
        the same."""
        context = tf.distribute.get_replica_context()
        local = context.replica_id_in_sync_group % self.ranks.devices
        total, gradients = self._gradients(placed, dropout_seed + tf.cast(local, dropout_seed.dtype))
        each = self.losses  # before the sum, at which TensorFlow goes on with the next replica
        flat = tf.concat([tf.reshape(total, (1,)), self._flatten(gradients)], axis=0)
        mean = context.all_reduce(tf.distribute.ReduceOp.SUM, flat) / self.ranks.replicas
        norm = self._update(mean[0], self._split(mean[1:]), *rates)
        return mean[0], norm, each

    @on_device
    def gradients(self, placed: Placed, dropout_seed: int) -> tuple[Any, list[Any]]:
        """Loss of a global batch and its gradients."""
        with tf32(self.recipe.training.autocast == "tf32"):
            try:
                return self._gradients(placed, dropout_seed)
            except tf.errors.OpError as error:
                if not self.compiled:
                    raise
                logger.warning("XLA failed, and the training goes on without it: %.300s", error)
                self.compiled = False
                self._compiled_loss = tf.function(self._loss_and_gradients, autograph=False)
                return self._gradients(placed, dropout_seed)

    def _gradients(self, placed: Placed, dropout_seed: int) -> tuple[Any, list[Any]]:
        total, found = 0.0, []
        sums: list[Any] = []
        for i, layer in enumerate(self.dropouts if self.recipe.model.dropout else []):
            state = layer.seed_generator.state
            state.assign(tf.stack([tf.cast(value, state.dtype) for value in (dropout_seed, i)]))
        for part in placed:
            value, each, gradients = self._compiled_loss(part)
            total = total + value
            found.append(each)
            sums = [a + b for a, b in zip(sums, gradients, strict=True)] if sums else gradients
        self.losses = tf.concat(found, axis=0)
        return total, sums

    def _loss_and_gradients(self, batch: dict[str, Any]) -> tuple[Any, Any, list[Any]]:
        """The micro-batch's share of the loss, the loss of each image, and the gradients of that share."""
        with compiled_layers("CPU" in self.device and not self.compiled), tf.GradientTape() as tape:
            each = losses(self.network, batch, self.recipe.process.loss)
            value = tf.reduce_mean(each) / self.recipe.training.accumulate
        gradients = tape.gradient(value, self.parameters, unconnected_gradients="zero")
        return value, each, [tf.convert_to_tensor(g) for g in gradients]  # the class embedding's is IndexedSlices

    def _update(self, total: Any, gradients: list[Any], lr: Any, muon_lr: Any, decay: Any, profile_decays: Any) -> Any:
        """Clip, step the optimiser and update the averages, or skip a step that is not finite; returns the norm."""
        gradient = self._flatten(gradients)
        norm = tf.norm(gradient)

        def apply() -> Any:
            self._apply(gradient, norm, lr, muon_lr, decay)
            for i, profile in enumerate(self.profiles):
                profile.assign_add(tf.cast(1 - profile_decays[i], norm.dtype) * (self.flat - profile))
            return self.skipped_in_a_row.assign(0)

        def skip() -> Any:
            self.skipped.assign_add(1)
            return self.skipped_in_a_row.assign_add(1)

        tf.cond(tf.math.is_finite(norm) & tf.math.is_finite(total), apply, skip)
        return norm

    def _apply(self, g: Any, norm: Any, lr: Any, muon_lr: Any, decay: Any) -> None:
        """Take a step of Adam or AdamW, as torch.optim defines them, and of Muon, and update the average."""
        config, dtype, p = self.recipe.training, norm.dtype, self.flat
        if config.clip_norm:
            g = g * tf.minimum(tf.cast(1, dtype), config.clip_norm / (norm + 1e-6))
        adams = self.exp_avg.shape[0]
        muon_step = [self._muon_step(g[adams:], tf.cast(muon_lr, dtype))] if self.stacks else []
        g = g[:adams]
        count = tf.cast(self.adam_steps.assign_add(1), tf.float64)
        # Scalars in float64: in float32 1 - beta_2^count errs by 1e-5 at the first steps.
        step_size = tf.cast(lr / (1 - config.beta1**count), dtype)
        root = tf.cast(tf.sqrt(1 - config.beta2**count), dtype)
        if config.weight_decay:
            decayed = [tf.fill(spec.shape, float(is_decayed(spec))) for spec in self.specs.values()]
            decay_term = config.weight_decay * tf.cast(self._flatten(decayed), dtype) * p
            if config.optimizer == "adamw":
                p.assign_sub(tf.cast(lr, dtype) * decay_term)
            else:
                g = g + decay_term[:adams]
        m = self.exp_avg.assign_add((1 - config.beta1) * (g - self.exp_avg))
        v = self.exp_avg_sq.assign(config.beta2 * self.exp_avg_sq + (1 - config.beta2) * g * g)
        step = step_size * m / (tf.sqrt(v) / root + config.adam_eps)
        p.assign_sub(tf.concat([step, *muon_step], axis=0))
        self.average.assign_add(tf.cast(1 - decay, dtype) * (p - self.average))
        for parameter, part in zip(self.parameters, self._split(p), strict=True):
            parameter.assign(part)

    def _muon_step(self, g: Any, lr: Any) -> Any:
        """What a step of Muon, with decoupled weight decay, subtracts from the parameters that come last."""
        mu, parts = self.recipe.training.muon_momentum, []
        m = self.momentum.assign_add((1 - mu) * (g - self.momentum))
        sizes = [len(names) * rows * columns for (rows, columns), names in self.stacks.items()]
        for ((rows, columns), names), part in zip(
            self.stacks.items(), tf.split(g + mu * (m - g), sizes), strict=True
        ):  # Keras's kernels are the transposed matrices, with their rows in another order
            u = orthogonalise(tf.reshape(part, (len(names), columns, rows)))
            parts.append(muon_scale(rows, columns) * tf.reshape(u, (-1,)))
        return lr * (tf.concat(parts, axis=0) + self.recipe.training.weight_decay * self.flat[-sum(sizes) :])

    def _flatten(self, tensors: list[Any]) -> Any:
        """One vector of all parameters, given in the order of the specs; Muon's come last."""
        return tf.concat([tf.reshape(tensors[i], (-1,)) for i in self.order], axis=0)

    def _split(self, flat: Any) -> list[Any]:
        """The parameters of a vector from _flatten(), in the order of the specs and in Keras's layout."""
        shapes = [p.shape for p in self.parameters]
        parts = tf.split(flat, [shapes[i].num_elements() for i in self.order])
        return [tf.reshape(parts[self.order.index(i)], shape) for i, shape in enumerate(shapes)]

    def _named(self, flat: Any) -> dict[str, np.ndarray]:
        """The parameters of a vector from _flatten(), by canonical name and in the canonical layout."""
        parts = zip(self.specs.items(), self._split(flat), strict=True)
        return {name: from_keras(spec.kind, part.numpy()) for (name, spec), part in parts}

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, int]]:
        """EMA weights, training state and counters; see core.training.training.Trainer."""
        seconds = (self.exp_avg_sq, tf.zeros_like(self.momentum))
        parts = {"params": self.flat, "exp_avg": tf.concat([self.exp_avg, self.momentum], axis=0)}
        parts |= {"exp_avg_sq": tf.concat(seconds, axis=0)}
        parts |= {f"profile_{i}": profile for i, profile in enumerate(self.profiles)}
        state = {f"{part}/{name}": value for part, flat in parts.items() for name, value in self._named(flat).items()}
        counters = ("adam_steps", "skipped", "skipped_in_a_row")
        return self._named(self.average), state, {name: int(getattr(self, name).numpy()) for name in counters}

    @on_device
    def load(self, ema: dict[str, np.ndarray], state: dict[str, np.ndarray], counters: dict[str, int]) -> None:
        """Restore a state()."""
        profiles = {f"profile_{i}": profile for i, profile in enumerate(self.profiles)}
        parts = ("params", "exp_avg", "exp_avg_sq", *profiles)
        named = {part: {name: state[f"{part}/{name}"] for name in self.specs} for part in parts}
        set_weights(self.network, named["params"])
        check_weights(ema, self.recipe.model, "weights")
        targets = {
            "params": self.flat,
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "ema": self.average,
            **profiles,
        }
        for part, variable in targets.items():
            values = {**named, "ema": ema}[part]
            flat = self._flatten([to_keras(s.kind, values[n]) for n, s in self.specs.items()])
            variable.assign(flat[: variable.shape[0]])
            if part == "exp_avg":
                self.momentum.assign(flat[variable.shape[0] :])
        for name in ("adam_steps", "skipped", "skipped_in_a_row"):
            getattr(self, name).assign(counters[name])

    @on_device
    def ema_network(self) -> Network:
        """The network with the EMA weights as they are now."""
        weights = self._named(self.average)
        if self.averaged is None:
            self.ema = build_unet(self.recipe.model, weights, self.recipe.training.dtype)
            self.averaged = Network(self.ema, self.device)
        set_weights(self.ema, weights)
        return self.averaged
