"""The optimiser step in PyTorch, which core.training calls. Twin: tf_impl/trainer.py."""

from __future__ import annotations

import contextlib
import copy
import logging
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from core.config import Recipe
from core.networks.specs import initial_weights, param_specs
from core.training.optim import COMPILED_FROM, is_decayed, muon_scale, muon_stacks
from core.training.ranks import Ranks
from torch_impl.device import device_name, pick_device, tf32
from torch_impl.muon import orthogonalise
from torch_impl.objective import losses
from torch_impl.sampler import Network
from torch_impl.weights import build_unet, get_weights, set_weights

logger = logging.getLogger(__name__)

Placed = list[dict[str, torch.Tensor]]
"""The micro-batches of an optimiser step on the device, as put() returns them."""


def set_threads(threads: int) -> None:
    """Limit the number of CPU threads; 0 leaves it to PyTorch."""
    if threads:
        torch.set_num_threads(threads)


def describe(device: str = "auto") -> dict[str, Any]:
    """Entries of a manifest: framework, version, number of threads and device."""
    name, threads = device_name(pick_device(device)), torch.get_num_threads()
    return {"framework": "torch", "version": torch.__version__, "threads": threads, "device": name}


class Trainer:
    """The network, its averages and its optimiser; see core.training.training.Trainer.

    Args:
        recipe: the recipe to train. The initial weights are drawn from its training.seed.
        device: where to train; see pick_device().
        compiled: whether torch.compile compiles the loss and its gradients. None does so on an NVIDIA GPU, for
            COMPILED_FROM steps and more. Where it fails, a line in the log says so, and the training goes on without.
        ranks: the processes that train together; None trains alone.
    """

    def __init__(
        self, recipe: Recipe, device: str = "auto", compiled: bool | None = None, ranks: Ranks | None = None
    ) -> None:
        config = recipe.training
        self.recipe, self.ranks = recipe, ranks or Ranks()
        self.device = pick_device(device, config.dtype)
        self.asynchronous = self.device.type != "cpu"
        weights = initial_weights(recipe.model, config.seed, config.dtype)
        self.network = build_unet(recipe.model, weights, config.dtype).to(self.device).train()
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        if config.gradient_checkpointing:
            self.network.gradient_checkpointing = True
        self.profiles = [copy.deepcopy(self.ema) for _ in config.ema_profiles]
        if compiled is None:
            compiled = self.device.type == "cuda" and config.steps >= COMPILED_FROM
        # It sums the gradients over the ranks, in buckets, while the backward pass goes on.
        self.module: Any = DistributedDataParallel(self.network) if self.ranks.count > 1 else self.network
        self.called: Any = torch.compile(self.module, dynamic=False) if compiled else self.module
        self.parameters: list[torch.Tensor] = list(self.network.parameters())
        self.optimizer = self._make_optimizer()
        self.averaged = Network(self.ema)
        self.skipped = self.skipped_in_a_row = torch.zeros((), dtype=torch.int64, device=self.device)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        config, specs = self.recipe.training, param_specs(self.recipe.model)
        named, stacks = dict(self.network.named_parameters()), muon_stacks(config, specs)
        self.muon: list[list[torch.Tensor]] = [[named.pop(name) for name in names] for names in stacks.values()]
        self.momenta = [ps[0].new_zeros(len(ps), *shape) for shape, ps in zip(stacks, self.muon, strict=True)]
        groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
        for name, p in named.items():
            groups[is_decayed(specs[name])].append(p)
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        options: dict[str, Any] = {"lr": config.learning_rate, "eps": config.adam_eps, "fused": True}
        parts = [{"params": ps, "weight_decay": config.weight_decay * decayed} for decayed, ps in groups.items()]
        optimizer = kind(parts, betas=(config.beta1, config.beta2), **options)
        for parameters, momentum in zip(self.muon, self.momenta, strict=True):
            for kernel, m in zip(parameters, momentum, strict=True):  # views, which state() and load() find
                optimizer.state[kernel] = {"exp_avg": m.view(kernel.shape)}
        return optimizer

    def put(self, batch: dict[str, np.ndarray]) -> Placed:
        """A batch on the device, as micro-batches; see core.training.training.Trainer."""
        size = len(batch["t"]) // self.recipe.training.accumulate
        return [
            {key: self._to_device(value[start : start + size]) for key, value in batch.items()}
            for start in range(0, len(batch["t"]), size)
        ]

    def step(self, placed: Placed, scalars: dict[str, float]) -> dict[str, Any]:
        """One optimiser step; see core.training.training.Trainer."""
        total, norm = self.gradients(placed, int(scalars["dropout_seed"]))
        skip = ~(torch.isfinite(norm) & torch.isfinite(total))  # stays on the device: asking for it waits for the step
        self._update(norm, skip, scalars)
        self.skipped = self.skipped + skip
        self.skipped_in_a_row = (self.skipped_in_a_row + 1) * skip
        counts = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        each = {}
        if self.recipe.training.timestep_sampling == "importance":
            each["losses"] = self.ranks.gather(self.losses.cpu().numpy())
        return {"loss": total, "grad_norm": norm, **each, **counts}

    def gradients(self, placed: Placed, dropout_seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of the ranks' global batch, and the norm of its gradients, which stay in the parameters' `.grad`."""
        with tf32(self.recipe.training.autocast == "tf32"):
            try:
                return self._gradients(placed, dropout_seed)
            except Exception as error:  # the compilers' errors have no class in common
                if self.called is self.module:
                    raise
                logger.warning("torch.compile failed, and the training goes on without it: %.300s", error)
                self.called = self.module
                return self._gradients(placed, dropout_seed)

    def _gradients(self, placed: Placed, dropout_seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.recipe.training
        if self.recipe.model.dropout:
            torch.manual_seed(dropout_seed)  # nn.Dropout takes no other generator
        self.network.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=getattr(torch, config.dtype), device=self.device)
        found = []
        for i, part in enumerate(placed):
            last = i == len(placed) - 1
            with contextlib.nullcontext() if last or self.ranks.count == 1 else self.module.no_sync():
                with torch.autocast(self.device.type, torch.bfloat16, enabled=config.autocast == "bf16"):
                    each = losses(self.called, part, self.recipe.process.loss)
                    value = each.mean() / config.accumulate
                value.backward()
            total += value.detach()
            found.append(each.detach())
        self.losses = torch.cat(found)
        if self.ranks.count > 1:
            distributed.all_reduce(total)
            total /= self.ranks.count
        return total, torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])

    @torch.no_grad()
    def _update(self, norm: torch.Tensor, skip: torch.Tensor, scalars: dict[str, float]) -> None:
        """Clip the gradients, step the optimiser and update the averages; nothing changes where `skip` is true."""
        clip = self.recipe.training.clip_norm
        if clip:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, clip, norm)
        self._update_muon(skip, scalars["muon_lr"])
        for group in self.optimizer.param_groups:
            group["lr"] = scalars["lr"]
        # The fused kernels leave weights, moments and step counts as they are where this attribute is 1.
        self.optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self._average(skip, scalars)

    def _update_muon(self, skip: torch.Tensor, lr: float) -> None:
        """Muon's step, of stacks of equal shapes; a rate of 0 and a gradient that is the momentum change nothing."""
        config = self.recipe.training
        rate = ~skip * torch.tensor(lr, dtype=self.parameters[0].dtype)
        for parameters, m in zip(self.muon, self.momenta, strict=True):
            g = torch.where(skip, m, torch.stack([p.grad.flatten(1) for p in parameters if p.grad is not None]))
            m.lerp_(g, 1 - config.muon_momentum)
            u = orthogonalise(g.lerp(m, config.muon_momentum)) * (rate * muon_scale(*m.shape[1:]))
            if config.weight_decay:
                torch._foreach_mul_(parameters, 1 - rate * config.weight_decay)
            torch._foreach_sub_(parameters, [each.view(p.shape) for each, p in zip(u, parameters, strict=True)])

    def _average(self, skip: torch.Tensor, scalars: dict[str, float]) -> None:
        """Move the averages towards the parameters, by a share that is 0 where `skip` is true."""
        decays = [scalars["ema_decay"], *(scalars[f"profile_decay_{i}"] for i in range(len(self.profiles)))]
        for average, decay in zip((self.ema, *self.profiles), decays, strict=True):
            share = ~skip * torch.tensor(1 - decay, dtype=self.parameters[0].dtype)
            torch._foreach_lerp_(list(average.parameters()), self.parameters, [share] * len(self.parameters))

    def _to_device(self, value: np.ndarray) -> torch.Tensor:
        """The array as a tensor on the device. Images change from NHWC to NCHW."""
        x = torch.from_numpy(value)
        if self.device.type == "cuda":  # from pinned memory the copy goes on while the next call is made
            x = x.pin_memory()
        x = x.to(self.device, non_blocking=True)
        return x.permute(0, 3, 1, 2) if x.ndim == 4 else x

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, int]]:
        """EMA weights, training state and counters; see core.training.training.Trainer."""
        state = {f"params/{name}": value for name, value in get_weights(self.network).items()}
        steps = 0
        for name, p in self.network.named_parameters():
            moments = self.optimizer.state.get(p, {})
            for part in ("exp_avg", "exp_avg_sq"):
                value = moments.get(part, torch.zeros_like(p))
                state[f"{part}/{name}"] = value.detach().cpu().numpy().copy()
            steps = max(steps, int(moments.get("step", 0)))  # Muon counts none
        for i, profile in enumerate(self.profiles):
            state |= {f"profile_{i}/{name}": value for name, value in get_weights(profile).items()}
        counters = {"adam_steps": steps, "skipped": int(self.skipped), "skipped_in_a_row": int(self.skipped_in_a_row)}
        return get_weights(self.ema), state, counters

    def load(self, ema: dict[str, np.ndarray], state: dict[str, np.ndarray], counters: dict[str, int]) -> None:
        """Restore a state()."""
        set_weights(self.ema, ema)
        for i, profile in enumerate(self.profiles):
            set_weights(profile, {n: state[f"profile_{i}/{n}"] for n, _ in profile.named_parameters()})
        set_weights(self.network, {n: state[f"params/{n}"] for n, _ in self.network.named_parameters()})
        for name, p in self.network.named_parameters():
            moments = {k: torch.empty_like(p, requires_grad=False) for k in ("exp_avg", "exp_avg_sq")}  # p's strides
            moments |= {k: m for k, m in self.optimizer.state[p].items() if k in moments}
            for k, moment in moments.items():
                moment.copy_(torch.from_numpy(state[f"{k}/{name}"]))
            step = torch.tensor(float(counters["adam_steps"]), device=self.device)
            self.optimizer.state[p] = {"step": step, **moments}
        self.skipped, self.skipped_in_a_row = (
            torch.tensor(counters[name], device=self.device) for name in ("skipped", "skipped_in_a_row")
        )

    def ema_network(self) -> Network:
        """The network with the EMA weights as they are now."""
        return self.averaged
