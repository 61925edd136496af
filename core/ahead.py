"""What coming steps need, made ahead in a thread while a GPU computes: batches of a training, noise of a sampler."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Makes what the coming steps need in a thread, in the order of the steps.

    Args:
        make: makes what a step needs; it must not depend on the results of earlier steps.
        steps: the steps, in ascending order; nothing is made for others before it is asked for.
        count: number of steps that are made ahead.
    """

    def __init__(self, make: Callable[[int], T], steps: Sequence[int], count: int) -> None:
        self.make, self.steps, self.count = make, steps, count
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self.futures: dict[int, Future[T]] = {}

    def take(self, step: int) -> T:
        """What a step needs. An error in making it is raised here, and not before its step."""
        coming = bisect_right(self.steps, step)
        wanted = (step, *self.steps[coming : coming + self.count])
        self.futures = {s: self.futures.get(s) or self.pool.submit(self.make, s) for s in wanted}
        return self.futures[step].result()

    def close(self) -> None:
        """End the thread."""
        self.pool.shutdown(wait=False, cancel_futures=True)
