"""The workers of TF_CONFIG or Slurm, as ranks, and the GPUs of this machine. Twin: torch_impl/ranks.py."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from core.training.ranks import Ranks
from core.twin import Device
from tf_impl.device import pick_device

SECONDS_TO_ANSWER = 3.0
"""How long missing() waits for each of the other ranks."""


@dataclass(frozen=True)
class LaunchedRanks(Ranks):
    """The replicas of a tf.distribute strategy."""

    strategy: Any = None
    """A MultiWorkerMirroredStrategy or a MirroredStrategy."""
    addresses: tuple[str, ...] = ()
    """host:port of every rank."""

    def gather(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The rows of all ranks; see core.training.ranks.Ranks."""
        if self.count == 1:
            return rows
        # A sum with zeros is exact, and takes more dtypes and graphs than tf.distribute's gather.
        wide = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.int64)
        placed = np.zeros((self.count, *rows.shape), wide.dtype)
        placed[self.rank] = wide
        found: NDArray[Any] = self.strategy.experimental_local_results(self._sum(tf.constant(placed)))[0].numpy()
        rows_of_all = found // self.devices if found.dtype == np.int64 else found / self.devices
        return rows_of_all.astype(rows.dtype).reshape(-1, *rows.shape[1:])

    @functools.cached_property
    def _sum(self) -> Any:
        """The sum over all replicas, as a graph."""

        def summed(value: Any) -> Any:
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))

        return tf.function(lambda value: self.strategy.run(summed, (value,)), autograph=False)

    def is_of_another(self, error: Exception) -> bool:
        """Whether another process has ended; see core.training.ranks.Ranks."""
        return self.count > 1 and isinstance(error, tf.errors.OpError) and "Collective" in str(error)

    def missing(self) -> list[int]:
        """The ranks that do not answer at their address; see core.training.ranks.Ranks."""
        found = []
        for rank, address in enumerate(self.addresses):
            host, _, port = address.rpartition(":")
            try:
                socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()
            except OSError:
                found.append(rank)
        return found


@contextlib.contextmanager
def replicated(strategy: Any) -> Iterator[None]:
    """Where variables are made of which every replica has its own copy.

    The replicas update their copies alike, from gradients that are summed over all. Nothing is copied between them, and
    what is saved is the first replica's.
    """

    def create(make: Callable[..., Any], **options: Any) -> Any:
        options["synchronization"] = tf.VariableSynchronization.ON_READ
        options["aggregation"] = tf.VariableAggregation.ONLY_FIRST_REPLICA
        return make(**options)

    with strategy.scope(), tf.variable_creator_scope(create):
        yield


@functools.cache
def join(device: Device = "auto") -> Ranks:
    """The ranks of this process: the workers of TF_CONFIG or Slurm, with all GPUs of each; or a process alone.

    Raises:
        ValueError: the device is not there, or TF_CONFIG has tasks other than workers.
    """
    kind = "GPU" if "GPU" in pick_device(device) else "CPU"
    if kind == "CPU":  # a strategy takes every GPU that it sees
        tf.config.set_visible_devices([], "GPU")
    logging.getLogger("tensorflow").setLevel(logging.WARNING)  # a strategy tells what it is made of, line by line
    resolver: Any = None
    if "TF_CONFIG" in os.environ:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver()
    if resolver is not None:
        cluster = resolver.cluster_spec().as_dict()
        addresses = tuple(cluster.get("worker", ()))
        if set(cluster) != {"worker"}:
            raise ValueError(f"TF_CONFIG: has tasks {sorted(cluster)}: must be workers alone, of which 0 is the chief")
        if len(addresses) > 1:
            strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
            devices = strategy.num_replicas_in_sync // len(addresses)
            return LaunchedRanks(resolver.task_id, len(addresses), devices, strategy=strategy, addresses=addresses)
    names = [found.name for found in tf.config.list_logical_devices(kind)]
    if len(names) > 1:
        return LaunchedRanks(devices=len(names), strategy=tf.distribute.MirroredStrategy(names))
    return Ranks()
