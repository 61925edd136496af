"""Batches made ahead: while a GPU takes a step, a thread makes the batches of the next two."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

AHEAD = 2
"""Number of batches that are made before they are needed."""


class Ahead(Generic[T]):
    """Makes the batches of the coming steps in a thread, in the order of the steps.

    Args:
        make: makes the batch of a step (0-based); it must not depend on the results of earlier steps.
        steps: number of steps of the training; no batch is made beyond the last.
    """

    def __init__(self, make: Callable[[int], T], steps: int) -> None:
        self.make, self.steps = make, steps
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self.futures: dict[int, Future[T]] = {}

    def take(self, step: int) -> T:
        """The batch of a step. An error in making it is raised here, and not before its step."""
        wanted = range(step, max(step + 1, min(step + 1 + AHEAD, self.steps)))
        self.futures = {s: self.futures.get(s) or self.pool.submit(self.make, s) for s in wanted}
        return self.futures[step].result()
