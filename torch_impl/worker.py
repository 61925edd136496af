"""The worker's tasks that need tensors: forward pass, gradients, layers, closed form. Twin: tf_impl/worker.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from core.config import ModelConfig, Recipe
from core.config.recipes import from_dict
from core.inference.conditioning import CONDITIONS
from core.worker.protocol import Arrays, with_prefix
from core.worker.tasks import affine_task
from torch_impl.sampler import BoundNetwork, Network, to_numpy
from torch_impl.trainer import Trainer
from torch_impl.weights import Net, build_unet, set_weights


def forward(arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """`forward`: evaluate options.model in options.dtype.

    Arrays in: `weights/NAME`, `x` (B, H, W, C), `t` (B,), and the condition by the names of CONDITIONS. Arrays out:
    `output` (B, H, W, C).
    """
    module, inputs = _network_and_inputs(arrays, options)
    with torch.inference_mode():
        return {"output": to_numpy(module(**inputs))}, {}


def _network_and_inputs(arrays: Arrays, options: dict[str, Any]) -> tuple[Net, dict[str, torch.Tensor]]:
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
    total, _ = trainer.gradients(trainer.put(with_prefix(arrays, "batch/")), options.get("dropout_seed", 0))
    found = {f"grad/{n}": p.grad.cpu().numpy() for n, p in trainer.network.named_parameters() if p.grad is not None}
    return {"loss": total.cpu().numpy(), **found}, {}


def trace_layers(arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """`trace_layers`: evaluate options.model in options.dtype; record inputs and output of every layer with weights.

    Arrays in: as `forward`. Arrays out, in the order of evaluation: `in/NAME/I`, input I of a layer, and `out/NAME`;
    images are NHWC. A strided convolution is left out, since the frameworks pad at different places. The layer that
    contains it is traced.
    """
    network, inputs = _network_and_inputs(arrays, options)
    seen: Arrays = {}

    def hook(name: str) -> Any:
        def note(module: torch.nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            seen.update({f"in/{name}/{i}": to_numpy(x) for i, x in enumerate(given)})
            seen[f"out/{name}"] = to_numpy(output)

        return note

    for name, module in network.named_modules():
        strided = isinstance(module, torch.nn.Conv2d) and module.stride != (1, 1)
        chained = isinstance(module, torch.nn.Sequential)  # its layers are traced; the other twin has a list
        if name and any(True for _ in module.parameters()) and not strided and not chained:
            module.register_forward_hook(hook(name))
    with torch.inference_mode():
        network(**inputs)
    return seen, {}


class Affine(torch.nn.Module):
    """A network in closed form: slope[t] x + offset[t], at the timestep whose time is nearest."""

    def __init__(self, slope: np.ndarray, offset: np.ndarray, time: np.ndarray) -> None:
        super().__init__()
        self.slope, self.offset, self.time = (torch.from_numpy(values) for values in (slope, offset, time))

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: None = None) -> torch.Tensor:
        level = (self.time - t).abs().argmin()
        return self.slope[level] * x + self.offset[level]


def affine_network(slope: np.ndarray, offset: np.ndarray, time: np.ndarray) -> Network:
    """A network in closed form: slope[t] x + offset[t], for slope, offset and time (T,) of the timesteps."""
    return Network(Affine(slope, offset, time))


TASKS = {
    "forward": forward,
    "gradients": gradients,
    "trace_layers": trace_layers,
    "sample_affine": affine_task(affine_network),
}
