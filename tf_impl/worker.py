"""The worker's tasks that need tensors: forward pass, gradients, layers, closed form. Twin: torch_impl/worker.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from core.config import ModelConfig, Recipe
from core.config.recipes import from_dict
from core.inference.conditioning import CONDITIONS
from core.worker.protocol import Arrays, with_prefix
from core.worker.tasks import affine_task
from tf_impl.sampler import BoundNetwork, Network
from tf_impl.trainer import Trainer
from tf_impl.weights import Net, build_unet, find_layer, from_keras, set_weights


def forward(arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """`forward`: evaluate options.model in options.dtype.

    Arrays in: `weights/NAME`, `x` (B, H, W, C), `t` (B,), and the condition by the names of CONDITIONS. Arrays out:
    `output` (B, H, W, C).
    """
    module, inputs = _network_and_inputs(arrays, options)
    return {"output": module(**inputs).numpy()}, {}


def _network_and_inputs(arrays: Arrays, options: dict[str, Any]) -> tuple[Net, dict[str, Any]]:
    config, dtype = from_dict(ModelConfig, options["model"]), options["dtype"]
    module = build_unet(config, with_prefix(arrays, "weights/"), dtype)
    given = {name: arrays[name] for name in CONDITIONS if name in arrays}
    return module, BoundNetwork(Network(module), {"x": arrays["x"].astype(dtype), "t": arrays["t"], **given}).given


def gradients(arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """`gradients`: loss and every parameter's gradient on one batch, with options.recipe.

    Arrays in: `weights/NAME`, and `batch/KEY` as core.training.training.Training.batch() returns them. Arrays out:
    `loss` () and `grad/NAME`.
    """
    trainer = Trainer(from_dict(Recipe, options["recipe"]))
    set_weights(trainer.network, with_prefix(arrays, "weights/"))
    total, found = trainer.gradients(trainer.put(with_prefix(arrays, "batch/")), options.get("dropout_seed", 0))
    grads = zip(trainer.specs.items(), found, strict=True)
    return {"loss": total.numpy(), **{f"grad/{n}": from_keras(spec.kind, g.numpy()) for (n, spec), g in grads}}, {}


def replay_layers(arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """`replay_layers`: evaluate every layer alone, on its inputs in the other framework.

    Arrays in: `weights/NAME`, and `in/NAME/I` as the other twin's `trace_layers` returns them. Arrays out: `out/NAME`.
    """
    network = build_unet(from_dict(ModelConfig, options["model"]), with_prefix(arrays, "weights/"), options["dtype"])
    given: dict[str, list[Any]] = {}
    for name, value in with_prefix(arrays, "in/").items():
        given.setdefault(name.rsplit("/", 1)[0], []).append(tf.constant(value))
    return {f"out/{name}": find_layer(network, name)(*inputs).numpy() for name, inputs in given.items()}, {}


def affine_network(slope: np.ndarray, offset: np.ndarray, time: np.ndarray) -> Network:
    """A network in closed form: slope[t] x + offset[t], for slope, offset and time (T,) of the timesteps."""

    def affine(x: Any, t: Any, labels: None = None) -> Any:
        level = tf.argmin(tf.abs(time - t))
        return tf.gather(slope, level) * x + tf.gather(offset, level)

    return Network(affine)


TASKS = {
    "forward": forward,
    "gradients": gradients,
    "replay_layers": replay_layers,
    "sample_affine": affine_task(affine_network),
}
