"""The parity ladder: who is compared on what, and the list of what was measured.

Each rung is a function in one of the rungs_*.py beside this file; `climb` runs them in order. Imports NumPy, core and
eval's own modules; the twins are reached through their workers alone (`eval.twins.client.Worker`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from core.checkpoints.checkpoint import resolve_checkpoint
from core.checkpoints.trained import open_trained
from core.config import Recipe, TrainingConfig
from core.config.recipes import load_recipe
from core.data.lenses import simulate
from core.networks.specs import param_specs
from eval.parity.closeness import NotCloseError, difference
from eval.parity.tolerances import GRADIENT_FLOOR, Tolerance
from eval.twins.client import Worker
from eval.twins.interpreters import ROOT, Framework

Arrays = dict[str, np.ndarray]
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


@dataclass(frozen=True)
class Subject:
    """The network on which the frameworks are compared."""

    name: str
    recipe: Recipe
    weights: Arrays
    """Every parameter by canonical name, float64."""

    @property
    def config(self) -> Any:
        """Its network."""
        return self.recipe.model

    def with_model(self, **changes: Any) -> Recipe:
        """Its recipe with another value of the network's options."""
        return dataclasses.replace(self.recipe, model=dataclasses.replace(self.recipe.model, **changes))

    def cast(self, dtype: str) -> Arrays:
        """Its weights at a precision, as the worker's arrays."""
        return {f"weights/{name}": value.astype(dtype) for name, value in self.weights.items()}


def open_subject(config: str, checkpoint: str | None) -> Subject:
    """A recipe with random weights, or a checkpoint with its own (the averaged ones).

    Args:
        config: a recipe's file; not read where a checkpoint is given.
        checkpoint: whatever `sample` draws from, or None.
    Raises:
        ValueError: a file that cannot be read or is not supported.
    """
    if checkpoint is None:
        recipe = load_recipe(config)
        return Subject(config, recipe, random_weights(recipe))
    folder = resolve_checkpoint(checkpoint)
    source = open_trained(folder, "ema")
    if (folder / "recipe.json").is_file():
        recipe = load_recipe(folder / "recipe.json")
    else:
        recipe = Recipe(source.model, source.process, sampling=source.sampling)
    return Subject(checkpoint, recipe, {name: value.astype(np.float64) for name, value in source.weights.items()})


def random_weights(recipe: Recipe) -> Arrays:
    """Weights without zeros or symmetry, of a size that keeps activations near 1; float64."""
    rng = np.random.default_rng(7)
    weights = {}
    for name, spec in param_specs(recipe.model).items():
        scale = 0.1 if len(spec.shape) < 2 else 1 / np.sqrt(np.prod(spec.shape[1:]))
        if name.startswith("outc."):  # the baseline does not normalise before its last layer: images would be white
            scale *= 0.1
        weights[name] = (spec.init == "ones") + scale * rng.standard_normal(spec.shape)
    return weights


def images_for(recipe: Recipe, count: int) -> Arrays:
    """Simulated lenses in the recipe's shape (one lens a channel), with the labels and parameters of its conditions."""
    height, width, channels = recipe.image_shape
    drawn, _, parameters = simulate("lensing", count * channels, (height, width), seed=3)
    images = np.asarray(drawn, np.float32).reshape(count, channels, height, width).transpose(0, 2, 3, 1)
    arrays: Arrays = {"images": np.ascontiguousarray(images)}
    if recipe.model.num_class_embeds:
        arrays["labels"] = np.arange(count) % (recipe.classes or 1)
    return arrays | {f"parameters/{name}": parameters[name][::channels] for name in recipe.data.condition}


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


def stress(recipe: Recipe, dtype: Any, **changes: Any) -> Recipe:
    """The recipe with a training in which everything acts: clip, warm-up, decay, weight decay, accumulation, average.

    Dropout is off: each framework draws its own masks. How levels are drawn, and which profiles are kept, is the
    recipe's.
    """
    ways = {
        key: getattr(recipe.training, key)
        for key in ("timestep_sampling", "p_mean", "p_std", "stratified", "ema_profiles")
    }
    training = TrainingConfig(
        steps=20,
        batch_size=4,
        accumulate=2,
        optimizer="adamw",
        weight_decay=0.1,
        learning_rate=2e-3,
        clip_norm=0.5,
        warmup_steps=5,
        decay="cosine",
        final_fraction=0.1,
        ema_decay=0.9,
        seed=5,
        dtype=dtype,
        **ways,
    )
    model = dataclasses.replace(recipe.model, dropout=0.0)
    return dataclasses.replace(recipe, model=model, training=dataclasses.replace(training, **changes))


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
