"""The worker's tasks that need tensors: forward and gradients. Twin: torch_impl/worker.py."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from core.config import ModelConfig, Recipe, from_dict
from core.worker import Arrays, with_prefix
from tf_impl.trainer import Trainer
from tf_impl.weights import build_unet, from_keras, set_weights


def forward(arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """`forward`: evaluate options.model at options.dtype.

    Arrays in: `weights/NAME`, `x` (B, H, W, C), `t` (B,), `labels` (B,) where there are classes. Out: `output` (B, H, W, C).
    """
    config, dtype = from_dict(ModelConfig, options["model"]), options["dtype"]
    network = build_unet(config, with_prefix(arrays, "weights/"), dtype)
    labels = tf.constant(arrays["labels"]) if "labels" in arrays else None
    output = network(tf.constant(arrays["x"].astype(dtype)), tf.constant(arrays["t"]), labels)
    return {"output": output.numpy()}, {}


def gradients(arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """`gradients`: loss and every parameter's gradient on one batch, with options.recipe.

    Arrays in: `weights/NAME`, `batch/KEY` as core.training.batches.make_batch. Out: `loss` (), `grad/NAME`.
    """
    trainer = Trainer(from_dict(Recipe, options["recipe"]))
    set_weights(trainer.network, with_prefix(arrays, "weights/"))
    total, found = trainer.gradients(with_prefix(arrays, "batch/"), options.get("dropout_seed", 0))
    grads = zip(trainer.specs.items(), found, strict=True)
    return {"loss": total.numpy(), **{f"grad/{n}": from_keras(spec.kind, g.numpy()) for (n, spec), g in grads}}, {}


TASKS = {"forward": forward, "gradients": gradients}
