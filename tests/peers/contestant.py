"""A peer's network in PyTorch as a contestant of the benchmark, behind the worker's protocol.

Training takes the step of torch_impl/trainer.py on the peer's network, so that a difference in speed is the network's.
Sampling evaluates the network as often as a sampler would. It leaves the sampler's arithmetic out, which favours the
peer. Images are contiguous NCHW, as the peers' own training programs pass them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from core.config import Recipe
from core.config.recipes import from_dict
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.worker.protocol import Arrays, serve
from core.worker.timing import TimedTraining, peak_memory

MakeNetwork = Callable[[Recipe], torch.nn.Module]
"""A peer's network for a recipe, as a module (x, t, labels) -> output on NCHW images."""
FIXED = {"accumulate": 1, "optimizer": "adam", "weight_decay": 0.0, "gradient_checkpointing": False}
"""Values of the table training that every peer's step has."""


def pick_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Trainer:
    """The plain optimiser step, for TimedTraining.

    Args:
        recipe: the recipe to train.
        make_network: the peer's network.
    Raises:
        ValueError: the recipe asks for what the peer's step does not have.
    """

    asynchronous = False

    def __init__(self, recipe: Recipe, make_network: MakeNetwork) -> None:
        config = self.config = recipe.training
        for name, allowed in FIXED.items():
            if getattr(config, name) != allowed:
                raise ValueError(f"training.{name} = {getattr(config, name)!r}: must be {allowed!r} with --peer")
        self.device = pick_device()
        self.network = make_network(recipe).to(self.device, getattr(torch, config.dtype)).train()
        self.parameters = list(self.network.parameters())
        self.averages = [p.detach() for p in copy.deepcopy(self.network).parameters()]
        betas = (config.beta1, config.beta2)
        self.optimizer = torch.optim.Adam(self.parameters, config.learning_rate, betas, config.adam_eps, fused=True)

    def put(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch as it is."""
        return batch

    def step(self, batch: dict[str, np.ndarray], scalars: dict[str, float]) -> dict[str, Any]:
        """One optimiser step: loss, backward pass, clipping, Adam, moving average."""
        x = {key: torch.from_numpy(value).to(self.device) for key, value in batch.items()}
        x = {key: value.permute(0, 3, 1, 2).contiguous() if value.ndim == 4 else value for key, value in x.items()}
        signal, noise, a, b = (x[key][:, None, None, None] for key in ("signal", "noise", "target_x0", "target_eps"))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.autocast == "bf16"):
            output = self.network(signal * x["x_0"] + noise * x["eps"], x["t"], x.get("labels"))
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


class TimedEvaluations:
    """`time_sampling`: seconds of the evaluations that drawing options.n images at once takes.

    Arrays out: `seconds` (1,). info: nfe, the number of evaluations.
    """

    def __init__(self, make_network: MakeNetwork) -> None:
        self.make_network = make_network
        self.recipe: Recipe | None = None

    def __call__(self, arrays: Arrays, options: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """Evaluate the network."""
        recipe, n = from_dict(Recipe, options["recipe"]), options["n"]
        dtype, device = getattr(torch, recipe.training.dtype), pick_device()
        if recipe != self.recipe:
            self.network, self.recipe = self.make_network(recipe).to(device, dtype).eval(), recipe
        height, width, channels = recipe.image_shape
        nfe = make_table(make_process(recipe.process), recipe.sampling).nfe
        x = torch.randn((n, channels, height, width), dtype=dtype, device=device)
        labels = torch.arange(n, device=device) % recipe.classes if recipe.classes else None
        started = time.perf_counter()
        with torch.inference_mode():
            for i in range(nfe):
                output = self.network(x, torch.full((n,), nfe - i, device=device), labels)
            output.cpu()  # waits for the device
        return {"seconds": np.array([time.perf_counter() - started])}, {"nfe": nfe}


def set_threads(threads: int) -> None:
    """Limit the number of CPU threads; 0 leaves it to PyTorch."""
    if threads:
        torch.set_num_threads(threads)


def describe() -> dict[str, Any]:
    """Version, number of threads and device."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": device}


def run(make_network: MakeNetwork, versions: Callable[[], dict[str, Any]], argv: Sequence[str]) -> int:
    """Answer the benchmark's requests; returns the exit code.

    Args:
        make_network: the peer's network for a recipe.
        versions: entries of `describe` that are the peer's own, such as framework and version.
        argv: as core.worker.protocol.serve() takes it.
    """
    tasks = {
        "time_training": TimedTraining(lambda recipe: Trainer(recipe, make_network)),
        "time_sampling": TimedEvaluations(make_network),
        "peak_memory": peak_memory,
        "describe": lambda arrays, options: ({}, {**versions(), **describe()}),
    }
    return serve(set_threads, tasks, argv)
