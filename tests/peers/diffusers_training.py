"""A peer for the benchmark: diffusers' UNet2DModel under the training step of torch_impl/trainer.py.

Everything but the network is as in our PyTorch twin, so that a difference in speed is the network's. Speaks the
worker's protocol (core/worker/tasks.py), tasks `time_training`, `peak_memory` and `describe`; run by the PyTorch
interpreter from the checkout: `python -m tests.peers.diffusers_training`.
"""

import copy
import sys
from typing import Any

import diffusers
import numpy as np
import torch

import tests.peers.torchvision_stub  # noqa: F401  diffusers imports torchvision when UNet2DModel is first named
from core.checkpoints.diffusers_config import unet_to_diffusers
from core.config import Recipe
from core.networks.specs import initial_weights
from core.worker.protocol import serve
from core.worker.timing import TimedTraining, peak_memory


class Trainer:
    """The plain training step, for TimedTraining."""

    def __init__(self, recipe: Recipe) -> None:
        config = self.config = recipe.training
        for name, allowed in (("accumulate", 1), ("autocast", "none"), ("optimizer", "adam"), ("weight_decay", 0.0)):
            if getattr(config, name) != allowed:
                raise ValueError(
                    f"training.{name} = {getattr(config, name)!r}: must be {allowed!r} with --peer diffusers"
                )
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = diffusers.UNet2DModel.from_config(unet_to_diffusers(recipe.model))
        weights = initial_weights(recipe.model, config.seed, config.dtype)
        self.network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        self.network.to(self.device, getattr(torch, config.dtype)).train()
        self.parameters = list(self.network.parameters())
        self.averages = [p.detach() for p in copy.deepcopy(self.network).parameters()]
        betas = (config.beta1, config.beta2)
        self.optimizer = torch.optim.Adam(self.parameters, config.learning_rate, betas, config.adam_eps, fused=True)

    def step(self, batch: dict[str, np.ndarray], scalars: dict[str, float]) -> dict[str, Any]:
        """One optimiser step: loss, backward pass, clipping, Adam, moving average."""
        x = {key: torch.from_numpy(value).to(self.device) for key, value in batch.items()}
        x = {key: value.permute(0, 3, 1, 2).contiguous() if value.ndim == 4 else value for key, value in x.items()}
        signal, noise, a, b = (x[key][:, None, None, None] for key in ("signal", "noise", "target_x0", "target_eps"))
        output = self.network(signal * x["x_0"] + noise * x["eps"], x["t"], x.get("labels")).sample
        error = (output - (a * x["x_0"] + b * x["eps"])).square().mean(dim=(1, 2, 3))
        total = (x["weight"] * error).mean()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if self.config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimizer.param_groups[0]["lr"] = scalars["lr"]
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1 - scalars["ema_decay"])
        return {"loss": total.detach()}


def set_threads(threads: int) -> None:
    """Limit CPU threads; 0 leaves PyTorch's choice."""
    if threads:
        torch.set_num_threads(threads)


def describe(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Versions, threads, device."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    versions = {"framework": "diffusers", "version": diffusers.__version__, "torch": torch.__version__}
    return {}, {**versions, "threads": torch.get_num_threads(), "device": device}


if __name__ == "__main__":
    tasks = {"time_training": TimedTraining(Trainer), "peak_memory": peak_memory, "describe": describe}
    sys.exit(serve(set_threads, tasks, sys.argv[1:]))
