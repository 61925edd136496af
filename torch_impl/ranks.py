"""The processes that torchrun started, as ranks. Twin: tf_impl/ranks.py."""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from core.training.ranks import Ranks
from core.twin import Device
from torch_impl.device import pick_device

SECONDS_TO_ANSWER = 3.0
"""How long missing() waits for the other ranks."""


@dataclass(frozen=True)
class LaunchedRanks(Ranks):
    """The ranks of torch.distributed's process group."""

    store: Any = None
    """The key-value store of the launcher, which outlives a rank."""

    def gather(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The rows of all ranks; see core.training.ranks.Ranks."""
        mine = torch.from_numpy(np.ascontiguousarray(rows))
        found = [torch.empty_like(mine) for _ in range(self.count)]
        distributed.all_gather(found, mine)
        return torch.cat(found).numpy()

    def is_of_another(self, error: Exception) -> bool:
        """Whether another process has ended; see core.training.ranks.Ranks."""
        gloo = isinstance(error, RuntimeError) and "gloo" in str(error)  # its errors have no class of their own
        return gloo or isinstance(error, distributed.DistError)

    def missing(self) -> list[int]:
        """The ranks that do not answer; see core.training.ranks.Ranks."""
        try:
            names = [f"alive/{rank}" for rank in range(self.count)]
            self.store.set(names[self.rank], "yes")
            time.sleep(SECONDS_TO_ANSWER)
            return [rank for rank, name in enumerate(names) if not self.store.check([name])]
        except RuntimeError:  # without torchrun the store is in rank 0
            return [0]


@functools.cache
def join(device: Device = "auto") -> Ranks:
    """The ranks of this process: those of torchrun, or a process alone.

    On NVIDIA GPUs each rank takes the GPU of its number on its machine, and gradients go by NCCL; otherwise by Gloo.

    Raises:
        ValueError: the device is not there.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks()
    if torch.cuda.is_available() and device in ("auto", "cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if pick_device(device).type == "cuda" else "gloo"
    store, rank, count = next(rendezvous("env://", timeout=timedelta(minutes=10)))
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    # The launcher's store outlives a restart, and would give this process the addresses of those that have ended.
    store = distributed.PrefixStore(f"start-{restarts}", store)  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count)
    return LaunchedRanks(rank, count, restarted=restarts > 0, store=store)
