"""The reference Adam and Muon on a gradient that depends on the weights and on every part of the batch."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np

from core.config import Recipe
from core.networks.specs import initial_weights, param_specs
from core.training.optim import is_decayed, muon_stacks
from core.training.training import Batch, State
from tests.numpy_adam import adam_step, muon_step
from tests.numpy_impl.pace import PACE
from tests.numpy_impl.sampler import Network, scaled


def set_threads(threads: int) -> None:
    """Note them; NumPy takes as many as it likes."""
    PACE.threads = threads or 1


def describe(device: str = "auto") -> dict[str, Any]:
    """What a manifest says."""
    threads = PACE.threads + PACE.more_threads
    return {"framework": PACE.framework, "version": np.__version__, "threads": threads, "device": "cpu"}


class Trainer:
    """See core.training.training.Trainer."""

    asynchronous = False
    interrupt_at: int | None = None
    """Optimiser step after which the process gets a signal."""
    interrupt_with = signal.SIGINT

    def __init__(self, recipe: Recipe, device: str = "auto", compiled: bool | None = None, ranks: Any = None) -> None:
        self.recipe, self.specs = recipe, param_specs(recipe.model)
        self.params = initial_weights(recipe.model, recipe.training.seed, recipe.training.dtype)
        self.ema = {name: value.copy() for name, value in self.params.items()}
        self.moments = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in self.params.items()}
        self.counters = {"adam_steps": 0, "skipped": 0, "skipped_in_a_row": 0}
        self.of_muon = {name for names in muon_stacks(recipe.training, self.specs).values() for name in names}

    def put(self, batch: Batch) -> Batch:
        """The batch as it is."""
        return batch

    def step(self, batch: Batch, scalars: dict[str, float]) -> dict[str, Any]:
        """One optimiser step; a norm that is not finite changes nothing but the counters."""
        PACE.act("step", self.counters["adam_steps"])
        push = float((batch["x_0"] * batch["eps"]).mean() + batch["t"].mean() / 100)
        gradients = {name: 0.1 * p + push for name, p in self.params.items()}
        with np.errstate(over="ignore"):
            norm = np.sqrt(sum(np.square(g).sum() for g in gradients.values()))
        if np.isfinite(norm):
            self.counters["adam_steps"] += 1
            self.counters["skipped_in_a_row"] = 0
            for name, p in self.params.items():
                config, count, lr = self.recipe.training, self.counters["adam_steps"], scalars["lr"]
                decayed = is_decayed(self.specs[name])
                if name in self.of_muon:
                    m, v = self.moments[name]
                    new, m = muon_step(config, scalars["muon_lr"], p, gradients[name], m)
                else:
                    new, m, v = adam_step(config, lr, count, decayed, p, gradients[name], *self.moments[name])
                self.params[name], self.moments[name] = new.astype(m.dtype), (m, v)
                self.ema[name] += (1 - scalars["ema_decay"]) * (self.params[name] - self.ema[name])
        else:
            self.counters["skipped"] += 1
            self.counters["skipped_in_a_row"] += 1
        if self.counters["adam_steps"] == self.interrupt_at:
            os.kill(os.getpid(), self.interrupt_with)
        return {"loss": push, "grad_norm": norm, **self.counters}

    def state(self) -> State:
        """EMA weights, training state and counters."""
        state: dict[str, np.ndarray] = {}
        for name, p in self.params.items():
            m, v = self.moments[name]
            state |= {f"params/{name}": p, f"exp_avg/{name}": m, f"exp_avg_sq/{name}": v}
        return self.ema, state, dict(self.counters)

    def load(self, ema: dict[str, np.ndarray], state: dict[str, np.ndarray], counters: dict[str, int]) -> None:
        """Go back to a state."""
        self.ema, self.counters = dict(ema), dict(counters)
        self.params = {name: state[f"params/{name}"] for name in self.specs}
        self.moments = {name: (state[f"exp_avg/{name}"], state[f"exp_avg_sq/{name}"]) for name in self.specs}

    def ema_network(self) -> Network:
        """The network with the EMA weights."""
        return Network(scaled(self.ema))
