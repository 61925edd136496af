"""The processes that train one network together. Each is a rank, and takes its slice of every global batch.

Noise, order and conditions are keyed by an image's position in the global batch. So the number of processes does not
change what is trained. A process that trains alone is rank 0 of 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.config import Recipe


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. A twin's ranks.py makes one from what the launcher says."""

    rank: int = 0
    """Number of this process, from 0. Rank 0 alone writes files and prints."""
    count: int = 1
    """Number of processes."""
    devices: int = 1
    """Number of devices of this process, each with a replica of the network."""

    restarted: bool = False
    """Whether the launcher has started this process again, after one of them had ended."""

    @property
    def replicas(self) -> int:
        """Number of copies of the network, one a device; a process on a CPU counts as one device."""
        return self.count * self.devices

    def gather(self, rows: NDArray[np.generic]) -> NDArray[np.generic]:
        """The rows of all ranks, one rank's after another; every rank gives an array of the same shape and dtype."""
        return rows

    def is_of_another(self, error: Exception) -> bool:
        """Whether the framework raised an error because another process has ended."""
        return False

    def missing(self) -> list[int]:
        """The ranks that do not answer within some seconds; asked for after such an error."""
        return []

    def part(self, total: int) -> range:
        """This rank's positions in a global batch."""
        size = total // self.count
        return range(self.rank * size, (self.rank + 1) * size)


def check_divisible(recipe: Recipe, ranks: Ranks) -> None:
    """Refuse a batch that the ranks cannot share.

    Raises:
        ValueError: the message names the key.
    """
    config, shares = recipe.training, ranks.replicas * recipe.training.accumulate
    if config.batch_size % shares:
        raise ValueError(
            f"training.batch_size = {config.batch_size}: must be a multiple of {shares}, which is {ranks.replicas} "
            f"devices times training.accumulate = {config.accumulate}"
        )


def check_alike(ranks: Ranks, facts: Mapping[str, object]) -> None:
    """Refuse to train with ranks of which one was started otherwise.

    Args:
        ranks: the ranks.
        facts: what must be equal, by name; compared as text.
    Raises:
        ValueError: the message says what differs, and between which ranks.
    """
    if ranks.count == 1:
        return
    sums = np.stack([np.frombuffer(hashlib.sha256(str(value).encode()).digest(), np.uint8) for value in facts.values()])
    gathered = ranks.gather(sums).reshape(ranks.count, *sums.shape)
    for name, of_ranks in zip(facts, gathered.transpose(1, 0, 2), strict=True):
        other = next((r for r, found in enumerate(of_ranks) if (found != of_ranks[0]).any()), None)
        if other is not None:
            raise ValueError(f"rank {other} has another {name} than rank 0: start all ranks alike")


def gather_uneven(ranks: Ranks, rows: NDArray[np.generic], most: int) -> list[NDArray[np.generic]]:
    """The rows of every rank, by rank, where their numbers differ.

    Args:
        ranks: the ranks.
        rows: this rank's rows.
        most: largest number of rows of any rank.
    """
    counts = ranks.gather(np.array([len(rows)]))
    padded = np.zeros((most, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    gathered = ranks.gather(padded).reshape(ranks.count, most, *rows.shape[1:])
    return [part[:size] for part, size in zip(gathered, counts.astype(int), strict=True)]
