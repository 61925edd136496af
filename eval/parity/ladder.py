"""The parity ladder: who is compared on what, and the list of what was measured.

Each rung is a function in one of the rungs_*.py beside this file; `climb` runs them in order. Imports NumPy, core and
eval's own modules; the twins are reached through their workers alone (`eval.twins.client.Worker`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from eval.parity.closeness import NotCloseError, difference
from eval.parity.subject import Arrays, Subject
from eval.parity.tolerances import GRADIENT_FLOOR, Tolerance
from eval.twins.client import Worker
from eval.twins.interpreters import ROOT, Framework

T = TypeVar("T")
PARTS = ("params", "ema", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Measurement:
    """One comparison: what differs most, where, and how much it may."""

    rung: int
    quantity: str
    dtype: str
    measured: float
    """Relative to the oracle's largest value, unless there is a unit; infinite where nothing could be compared."""
    tolerance: float
    where: str
    """The worst element, with both values."""
    why: str
    """The reason for the tolerance."""
    unit: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is within the tolerance."""
        return self.measured <= self.tolerance


@dataclass
class Board:
    """What has been measured so far."""

    rung: int = 0
    measurements: list[Measurement] = field(default_factory=list)
    curves: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    """Plot -> curve -> x and y."""
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    """Name -> (N, H, W, C) in [0, 1]."""
    left_out: int = 0
    """Rungs (functions) that were not run, after a red one."""
    run: dict[int, dict[Framework, tuple[Arrays, dict[str, int]]]] = field(default_factory=dict)
    """The training that several rungs share: step -> framework -> its arrays and counters there."""

    def record(
        self, quantity: str, dtype: str, measured: float, tolerance: Tolerance, where: str, unit: str = ""
    ) -> None:
        """Note a measurement made elsewhere."""
        values = (quantity, dtype, float(measured), float(tolerance), where, tolerance.why, unit)
        self.measurements.append(Measurement(self.rung, *values))

    def close(self, quantity: str, found: np.ndarray, expected: np.ndarray, tolerance: Tolerance) -> None:
        """Compare an array with its oracle; their types must be equal."""
        self.all_close(quantity, {quantity: found}, {quantity: expected}, tolerance, floor=0.0)

    def all_close(
        self,
        quantity: str,
        found: Mapping[str, np.ndarray],
        expected: Mapping[str, np.ndarray],
        tolerance: Tolerance,
        floor: float = GRADIENT_FLOOR,
        oracle: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Compare named tensors and note the worst.

        Args:
            quantity: what they are.
            found, expected: name -> array; the names must be the same.
            tolerance: for each tensor relative to its own largest value.
            floor: a tensor whose largest value in the oracle is not above it is all rounding: its difference is taken
                relative to the largest value of all tensors.
            oracle: where the floor is looked up; expected where None.
        """
        dtype = str(next(iter(expected.values())).dtype)
        if found.keys() != expected.keys():
            odd = sorted(found.keys() ^ expected.keys())
            self.record(quantity, dtype, np.inf, tolerance, f"{len(odd)} names on one side only: {', '.join(odd[:4])}")
            return
        largest = max(float(np.abs(value).max()) for value in expected.values()) or 1.0
        worst, where = -1.0, ""
        for name, value in expected.items():
            try:
                apart = difference(found[name], value, name)
            except NotCloseError as error:
                self.record(quantity, dtype, np.inf, tolerance, str(error))
                return
            own = float(np.abs(value).max())
            rounding = float(np.abs((oracle or expected)[name]).max()) <= floor
            measured = apart.measured * (own or 1.0) / largest if rounding else apart.measured
            if measured > worst:
                place = f" at {list(apart.index)}" if apart.index else ""
                label = "" if name == quantity else name
                worst, where = measured, f"{label}{place}: {apart.found:.9g}, expected {apart.expected:.9g}".strip()
        self.record(quantity, dtype, worst, tolerance, where)


def under(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Names with a prefix, as the worker takes them."""
    return {f"{prefix}/{name}": value for name, value in arrays.items()}


def part(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The arrays of one prefix, without it."""
    return {name.removeprefix(f"{prefix}/"): v for name, v in arrays.items() if name.startswith(f"{prefix}/")}


def at_once(*calls: Callable[[], T]) -> list[T]:
    """What calls return, each made in a thread of its own."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
    return [future.result() for future in futures]


class Twins(dict[Framework, Worker]):
    """Both twins' workers, PyTorch first."""

    def both(self, task: str, arrays: Mapping[str, np.ndarray], **options: Any) -> list[tuple[Arrays, dict[str, Any]]]:
        """What a task gives in each framework, PyTorch first; both work at the same time."""
        return at_once(*(partial(worker.call, task, arrays, **options) for worker in self.values()))


@contextmanager
def start_twins(threads: int = 1, root: Path = ROOT) -> Iterator[Twins]:
    """Both workers, one thread each since they work at the same time."""
    options: dict[str, Any] = {"threads": threads, "timeout": 3600, "root": root}
    with Worker("torch", **options) as torch, Worker("tensorflow", **options) as tensorflow:
        yield Twins(torch=torch, tensorflow=tensorflow)


Rung = Callable[[Twins, Subject, Board], None]


def climb(
    twins: Twins, subject: Subject, rungs: list[tuple[int, Rung]], begin: Callable[[str], None], stop: bool = False
) -> Board:
    """Run rungs in order.

    Args:
        twins: the workers.
        subject: the network.
        rungs: (number, function).
        begin: told each rung's name before it runs.
        stop: end with the first one that is red.
    """
    board = Board()
    for index, (number, rung) in enumerate(rungs):
        begin(f"rung {number}, {(rung.__doc__ or '').splitlines()[0].rstrip('.')}")
        board.rung = number
        rung(twins, subject, board)
        if stop and not all(m.ok for m in board.measurements):
            board.left_out = len(rungs) - index - 1
            break
    return board
