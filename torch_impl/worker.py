"""The worker's tasks that need tensors: forward and gradients. Twin: tf_impl/worker.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from core.config import ModelConfig, Recipe, from_dict
from core.worker import Arrays, with_prefix
from torch_impl.trainer import Trainer
from torch_impl.weights import build_unet, set_weights


def forward(arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """`forward`: evaluate options.model at options.dtype.

    Arrays in: `weights/NAME`, `x` (B, H, W, C), `t` (B,), `labels` (B,) where there are classes. Out: `output` (B, H, W, C).
    """
    config, dtype = from_dict(ModelConfig, options["model"]), options["dtype"]
    network = build_unet(config, with_prefix(arrays, "weights/"), dtype)
    x = torch.from_numpy(arrays["x"].astype(dtype)).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(arrays["labels"]) if "labels" in arrays else None
    with torch.inference_mode():
        output = network(x, torch.from_numpy(arrays["t"]), labels)
    return {"output": np.ascontiguousarray(output.permute(0, 2, 3, 1).numpy())}, {}


def gradients(arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """`gradients`: loss and every parameter's gradient on one batch, with options.recipe.

    Arrays in: `weights/NAME`, `batch/KEY` as core.training.batches.make_batch. Out: `loss` (), `grad/NAME`.
    """
    trainer = Trainer(from_dict(Recipe, options["recipe"]))
    set_weights(trainer.network, with_prefix(arrays, "weights/"))
    total, _ = trainer.gradients(with_prefix(arrays, "batch/"), options.get("dropout_seed", 0))
    found = {f"grad/{n}": p.grad.cpu().numpy() for n, p in trainer.network.named_parameters() if p.grad is not None}
    return {"loss": total.cpu().numpy(), **found}, {}


TASKS = {"forward": forward, "gradients": gradients}
