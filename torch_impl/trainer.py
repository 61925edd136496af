"""The optimiser step in PyTorch, which core.training calls. Twin: tf_impl/trainer.py."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from core.config import Recipe
from core.networks.specs import initial_weights, param_specs
from core.training.optim import is_decayed
from torch_impl.objective import losses
from torch_impl.sampler import Network
from torch_impl.weights import build_unet, get_weights, set_weights


def set_threads(threads: int) -> None:
    """Limit the number of CPU threads; 0 leaves it to PyTorch."""
    if threads:
        torch.set_num_threads(threads)


def describe() -> dict[str, Any]:
    """Entries of a manifest: framework, version, number of threads and device."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"framework": "torch", "version": torch.__version__, "threads": torch.get_num_threads(), "device": device}


class Trainer:
    """The network, its averages and its optimiser; see core.training.training.Trainer.

    Args:
        recipe: the recipe to train. The initial weights are drawn from its training.seed.
    """

    def __init__(self, recipe: Recipe) -> None:
        config = recipe.training
        self.recipe = recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        weights = initial_weights(recipe.model, config.seed, config.dtype)
        self.network = build_unet(recipe.model, weights, config.dtype).to(self.device).train()
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        if config.gradient_checkpointing:
            self.network.gradient_checkpointing = True
        self.profiles = [copy.deepcopy(self.ema) for _ in config.ema_profiles]
        self.parameters: list[torch.Tensor] = list(self.network.parameters())
        self.optimizer = self._make_optimizer()
        self.averaged = Network(self.ema)
        self.skipped = self.skipped_in_a_row = 0

    def _make_optimizer(self) -> torch.optim.Optimizer:
        config, specs = self.recipe.training, param_specs(self.recipe.model)
        groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
        for name, p in self.network.named_parameters():
            groups[is_decayed(specs[name])].append(p)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
        options = {"lr": config.learning_rate, "betas": (config.beta1, config.beta2), "eps": config.adam_eps}
        parts = [{"params": ps, "weight_decay": config.weight_decay * decayed} for decayed, ps in groups.items()]
        return kind(parts, fused=True, **options)

    def step(self, batch: dict[str, np.ndarray], scalars: dict[str, float]) -> dict[str, Any]:
        """One optimiser step; see core.training.training.Trainer."""
        total, norm = self.gradients(batch, int(scalars["dropout_seed"]))
        if torch.isfinite(norm) and torch.isfinite(total):
            self._update(norm, scalars)
            self.skipped_in_a_row = 0
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1
        counts = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        each = {"losses": self.losses.cpu()} if self.recipe.training.timestep_sampling == "importance" else {}
        return {"loss": total, "grad_norm": norm, **each, **counts}

    def gradients(self, batch: dict[str, np.ndarray], dropout_seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of a global batch, and the norm of its gradients, which stay in the parameters' `.grad`."""
        config = self.recipe.training
        if self.recipe.model.dropout:
            torch.manual_seed(dropout_seed)  # nn.Dropout takes no other generator
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=getattr(torch, config.dtype), device=self.device)
        size, found = len(batch["t"]) // config.accumulate, []
        for start in range(0, len(batch["t"]), size):
            part = {key: self._to_device(value[start : start + size]) for key, value in batch.items()}
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.autocast == "bf16"):
                each = losses(self.network, part, self.recipe.process.loss)
                value = each.mean() / config.accumulate
            value.backward()
            total += value.detach()
            found.append(each.detach())
        self.losses = torch.cat(found)
        return total, torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])

    @torch.no_grad()
    def _update(self, norm: torch.Tensor, scalars: dict[str, float]) -> None:
        """Clip the gradients, step the optimiser and update the averages."""
        clip = self.recipe.training.clip_norm
        if clip:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = scalars["lr"]
        self.optimizer.step()
        torch._foreach_lerp_(list(self.ema.parameters()), self.parameters, 1 - scalars["ema_decay"])
        for i, profile in enumerate(self.profiles):
            torch._foreach_lerp_(list(profile.parameters()), self.parameters, 1 - scalars[f"profile_decay_{i}"])

    def _to_device(self, value: np.ndarray) -> torch.Tensor:
        """The array as a tensor on the device. Images change from NHWC to NCHW."""
        x = torch.from_numpy(value).to(self.device)
        return x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, int]]:
        """EMA weights, training state and counters; see core.training.training.Trainer."""
        state = {f"params/{name}": value for name, value in get_weights(self.network).items()}
        steps = 0
        for name, p in self.network.named_parameters():
            moments = self.optimizer.state.get(p, {})
            for part in ("exp_avg", "exp_avg_sq"):
                value = moments.get(part, torch.zeros_like(p))
                state[f"{part}/{name}"] = value.detach().cpu().numpy().copy()
            steps = int(moments.get("step", 0))
        for i, profile in enumerate(self.profiles):
            state |= {f"profile_{i}/{name}": value for name, value in get_weights(profile).items()}
        counters = {"adam_steps": steps, "skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        return get_weights(self.ema), state, counters

    def load(self, ema: dict[str, np.ndarray], state: dict[str, np.ndarray], counters: dict[str, int]) -> None:
        """Restore a state()."""
        set_weights(self.ema, ema)
        for i, profile in enumerate(self.profiles):
            set_weights(profile, {n: state[f"profile_{i}/{n}"] for n, _ in profile.named_parameters()})
        set_weights(self.network, {n: state[f"params/{n}"] for n, _ in self.network.named_parameters()})
        for name, p in self.network.named_parameters():
            moments = {k: torch.from_numpy(state[f"{k}/{name}"].copy()).to(p) for k in ("exp_avg", "exp_avg_sq")}
            step = torch.tensor(float(counters["adam_steps"]), device=self.device)
            self.optimizer.state[p] = {"step": step, **moments}
        self.skipped, self.skipped_in_a_row = counters["skipped"], counters["skipped_in_a_row"]

    def ema_network(self) -> Network:
        """The network with the EMA weights as they are now."""
        return self.averaged
