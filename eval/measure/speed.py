"""How fast each framework starts, trains and evaluates its network, in interleaved repetitions.

Each contestant is a process of its own behind a worker (`eval.twins.client.Worker`). While one works, all others are
stopped. Every repetition has another order, so that a busy machine slows all alike.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from core.config import Recipe
from core.config.recipes import to_dict
from core.exits import RunError
from core.networks.specs import count_parameters
from eval.measure.machine import Watch, leaving_on_signals, refuse_spinning
from eval.twins.client import Worker
from eval.twins.interpreters import ROOT, Framework

SETTLING_STEPS = 3
"""Untimed steps after the first. They move the weights away from their initial zeros, where most gradients are zero."""
CALL_SECONDS = 3600.0
ORDER_SEED = 0
PEERS = {
    "diffusers": "tests.peers.diffusers_contestant",
    "denoising-diffusion-pytorch": "tests.peers.lucidrains_contestant",
}
CONTROL, LIMIT = "control", "limit"


@dataclass(frozen=True)
class Contestant:
    """A program that is timed: a twin, or a script in a twin's environment that speaks the worker's protocol."""

    name: str
    framework: Framework
    module: str = ""


def contestants(peers: Sequence[str]) -> list[Contestant]:
    """The two twins, a second PyTorch twin as the control, its products alone as the limit, and the peers.

    Raises:
        ValueError: an unknown peer, or one that is given twice.
    """
    for peer in peers:
        if peer not in PEERS or peers.count(peer) > 1:
            raise ValueError(f"--peer {peer}: must be one of {', '.join(PEERS)}, each once")
    return [
        Contestant("torch", "torch"),
        Contestant("tensorflow", "tensorflow"),
        Contestant(CONTROL, "torch"),
        Contestant(LIMIT, "torch", "tests.peers.products_contestant"),
        *(Contestant(peer, "torch", PEERS[peer]) for peer in peers),
    ]


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles, extremes and the values themselves."""
    low, q1, median, q3, high = (float(q) for q in np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
    return {"median": median, "q1": q1, "q3": q3, "min": low, "max": high, "values": [float(v) for v in values]}


def ratio(seconds: Mapping[str, Sequence[float]], of: str, to: str) -> dict[str, Any]:
    """Speed of one over speed of another, repetition by repetition: above 1 means that `of` is faster."""
    return {"of": of, "to": to, **summary([b / a for a, b in zip(seconds[of], seconds[to], strict=True)])}


def ratios(seconds: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """The ratios that count: control, between the twins, of each twin to each peer, and to the limit."""
    peers = [name for name in PEERS if name in seconds]
    pairs = [(CONTROL, "torch"), ("tensorflow", "torch"), ("torch", LIMIT)]
    pairs += [(twin, peer) for peer in peers for twin in ("torch", "tensorflow")]
    return [ratio(seconds, of, to) for of, to in pairs if of in seconds and to in seconds]


class Race:
    """Contestants that are timed in turn, each alone.

    Args:
        runners: who is timed.
        recipe: network, batch size and sampler.
        threads: CPU threads of each.
        root: the checkout.
        progress: called after each measurement with what it was.
    """

    def __init__(
        self, runners: Sequence[Contestant], recipe: Recipe, threads: int, root: Path, progress: Callable[[str], None]
    ) -> None:
        self.runners, self.recipe, self.progress = {c.name: c for c in runners}, recipe, progress
        self.threads, self.root, self.watch = threads, root, Watch()
        self.rng, self.workers = np.random.default_rng(ORDER_SEED), dict[str, Worker]()

    def interleaved(
        self, what: str, repetitions: int, measure: Callable[[str], float], names: Sequence[str] | None = None
    ) -> dict[str, list[float]]:
        """One measurement of each contestant a repetition, each repetition in another order."""
        values: dict[str, list[float]] = {name: [] for name in names or self.runners}
        for _ in range(repetitions):
            for name in self.rng.permutation(list(values)).tolist():
                values[name].append(measure(name))
                self.watch.note()
                self.progress(f"{what}: {name}")
        return values

    def alone(self, name: str, task: str, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """A task of a contestant, which is stopped again afterwards, as all the others are."""
        try:
            return self.workers[name].call(task, **options)
        finally:
            self.workers[name].pause()

    def started(self, name: str, stack: contextlib.ExitStack) -> float:
        """Start a contestant, and end the one of the same name; seconds until it has taken its first step."""
        if name in self.workers:
            self.workers[name].__exit__()
        c, begun = self.runners[name], time.perf_counter()
        worker = Worker(c.framework, threads=self.threads, timeout=CALL_SECONDS, root=self.root, module=c.module)
        self.workers[name] = stack.enter_context(worker)
        self.training_seconds(name, 1)
        return time.perf_counter() - begun

    def environment(self, name: str) -> dict[str, Any]:
        """What a contestant says of itself; its number of threads is checked."""
        environment = self.alone(name, "describe")[1]
        if environment["threads"] != self.threads:
            raise RunError(f"{name}: runs {environment['threads']} threads: must be {self.threads}")
        return environment

    def training_seconds(self, name: str, steps: int) -> float:
        """Mean seconds of an optimiser step."""
        seconds = self.alone(name, "time_training", recipe=to_dict(self.recipe), steps=steps)[0]["seconds"]
        return float(seconds.mean())

    def evaluation_seconds(self, name: str, n: int) -> float:
        """Mean seconds of an evaluation of the network, drawing n images at once."""
        recipe = replace(self.recipe, sampling=replace(self.recipe.sampling, batch_size=n))
        arrays, info = self.alone(name, "time_sampling", recipe=to_dict(recipe), n=n)
        return float(arrays["seconds"].sum() / info["nfe"])

    def peak(self, name: str) -> int:
        """Most main memory, in bytes, that a contestant's process has held so far."""
        return int(self.alone(name, "peak_memory")[1]["bytes"])


def measure(
    recipe: Recipe,
    *,
    repetitions: int = 7,
    steps: int = 10,
    samples: int = 64,
    starts: int = 1,
    threads: int = 2,
    peers: Sequence[str] = (),
    root: Path = ROOT,
) -> dict[str, Any]:
    """Time start, training and evaluation of all contestants on random images; plain JSON values.

    Args:
        recipe: network, batch size, optimiser and sampler; its data are not read, and its warm-up is left out.
        repetitions: interleaved repetitions, at least 1.
        steps: optimiser steps a repetition, at least 1.
        samples: images of the large batch in sampling, at least 1. The small batch is one image.
        starts: interleaved starts of every contestant, at least 1.
        threads: CPU threads of each contestant, at least 1.
        peers: names of PEERS.
        root: the checkout.
    Returns:
        protocol, machine, contestants (environment, peak_bytes, and seconds by what is timed) and ratios (of speeds,
        paired by repetition, by what is timed). What is timed: start, training, evaluation 1 and evaluation SAMPLES.
    Raises:
        ValueError: a number or peer out of range. RunError: a contestant failed, or runs another number of threads.
    """
    numbers = {"repetitions": repetitions, "steps": steps, "samples": samples, "starts": starts, "threads": threads}
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"--{name} {value}: must be at least 1")
    refuse_spinning()
    runners, recipe = contestants(peers), replace(recipe, training=replace(recipe.training, warmup_steps=0))
    total = len(runners) * (1 + repetitions) * (1 + len({1, samples})) + len(_starting(runners)) * (starts - 1)
    with contextlib.ExitStack() as stack:
        stack.enter_context(leaving_on_signals())
        race = Race(runners, recipe, threads, root, stack.enter_context(_progress(total)))
        times = {"start": _start_times(race, starts, stack)}
        environments = {name: race.environment(name) for name in race.runners}
        for name in race.runners:
            race.training_seconds(name, SETTLING_STEPS)
        times["training"] = race.interleaved("training", repetitions, lambda name: race.training_seconds(name, steps))
        peaks = {name: {"training": race.peak(name)} for name in race.runners}
        for batch in sorted({1, samples}):
            one, what = partial(race.evaluation_seconds, n=batch), f"evaluation {batch}"
            race.interleaved(f"warm-up of {what}", 1, one)
            times[what] = race.interleaved(what, repetitions, one)
        for name in race.runners:
            peaks[name]["training_and_sampling"] = race.peak(name)
    entries = {
        name: {
            "environment": environments[name],
            "peak_bytes": peaks[name],
            "seconds": {what: summary(seconds[name]) for what, seconds in times.items() if name in seconds},
        }
        for name in race.runners
    }
    return {
        "protocol": {**numbers, "order_seed": ORDER_SEED, **_sizes(recipe)},
        "machine": race.watch.record(),
        "contestants": entries,
        "ratios": {what: ratios(seconds) for what, seconds in times.items()},
        "recipe": to_dict(recipe),
    }


def _starting(runners: Sequence[Contestant]) -> list[str]:
    """Names of those whose start means something."""
    return [c.name for c in runners if c.name not in (CONTROL, LIMIT)]


def _start_times(race: Race, starts: int, stack: contextlib.ExitStack) -> dict[str, list[float]]:
    """Seconds of every start; all contestants run after the last."""
    names = _starting(list(race.runners.values()))
    before = race.interleaved("start", starts - 1, lambda name: race.started(name, stack), names)
    last = race.interleaved("start", 1, lambda name: race.started(name, stack), list(race.runners))
    return {name: [*before[name], last[name][0]] for name in names}


def _sizes(recipe: Recipe) -> dict[str, Any]:
    """How much work a step is."""
    return {
        "batch_size": recipe.training.batch_size,
        "parameters": count_parameters(recipe.model),
        "image_shape": list(recipe.image_shape),
        "dtype": recipe.training.dtype,
        "autocast": recipe.training.autocast,
    }


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr, and the function that moves it by one measurement and says what was measured."""
    from tqdm import tqdm

    with tqdm(total=total, desc="benchmark", unit="measurement", dynamic_ncols=True) as bar:

        def move(what: str) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update()

        yield move
