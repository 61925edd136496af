"""How fast each framework trains and samples, in interleaved repetitions, so that a busy machine slows all alike.
 Each framework runs in its own environment behind one worker (`eval.twins.client.Worker`). While one works, the others
wait.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.config import Recipe
from core.config.recipes import to_dict
from core.exits import RunError
from core.networks.specs import count_parameters
from eval.twins.client import Worker
from eval.twins.interpreters import ROOT, Framework

SETTLING_STEPS = 2
CALL_SECONDS = 3600.0
PEERS = ("none", "diffusers")


@dataclass(frozen=True)
class Contestant:
    """A program that is timed: a twin, or a peer's script in a twin's environment (training only)."""

    name: str
    framework: Framework
    module: str = ""

    @property
    def samples(self) -> bool:
        """Whether it is timed in sampling too."""
        return not self.module


def contestants(peer: str) -> list[Contestant]:
    """The two twins and, where named, a peer.

    Raises:
        ValueError: an unknown peer.
    """
    if peer not in PEERS:
        raise ValueError(f"--peer {peer}: must be one of {', '.join(PEERS)}")
    twins = [Contestant("torch", "torch"), Contestant("tensorflow", "tensorflow")]
    return twins + ([Contestant("diffusers", "torch", "tests.peers.diffusers_training")] if peer != "none" else [])


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles, extremes and the values themselves."""
    low, q1, median, q3, high = (float(q) for q in np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
    return {"median": median, "q1": q1, "q3": q3, "min": low, "max": high, "values": [float(v) for v in values]}


def ratio(speeds: Mapping[str, Sequence[float]], of: str, to: str) -> dict[str, Any]:
    """Speed of one over speed of another, repetition by repetition: above 1 means that `of` is faster."""
    return {"of": of, "to": to, **summary([a / b for a, b in zip(speeds[of], speeds[to], strict=True)])}


def _ratios(speeds: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    pairs = (("tensorflow", "torch"), ("torch", "diffusers"), ("tensorflow", "diffusers"))
    return [ratio(speeds, of, to) for of, to in pairs if of in speeds and to in speeds]


def machine() -> dict[str, Any]:
    """The processor, its cores, and how busy it is before the first measurement."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux alone has this file
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": model,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
    }


class Race:
    """Workers that are timed in turn.

    Args:
        workers: name -> its worker, started.
        recipe: network, batch size and sampler.
        progress: called after each measurement with what it was.
    """

    def __init__(self, workers: dict[str, Worker], recipe: Recipe, progress: Callable[[str], None]) -> None:
        self.workers, self.recipe, self.progress = workers, recipe, progress
        self.values = to_dict(recipe)

    def training_rate(self, name: str, steps: int) -> float:
        """Images a second over some optimiser steps."""
        seconds = self.workers[name].call("time_training", recipe=self.values, steps=steps)[0]["seconds"]
        self.progress(f"train {name}")
        return float(steps * self.recipe.training.batch_size / seconds.sum())

    def sampling_seconds(self, name: str, samples: int) -> tuple[float, int]:
        """Seconds an image, and evaluations of the network an image."""
        arrays, info = self.workers[name].call("time_sampling", recipe=self.values, n=samples)
        self.progress(f"sample {name}")
        return float(arrays["seconds"].sum() / samples), int(info["nfe"])

    def peaks(self) -> dict[str, int]:
        """Most main memory, in bytes, that each process has held so far."""
        return {name: int(worker.call("peak_memory")[1]["bytes"]) for name, worker in self.workers.items()}


def _start(contestant: Contestant, worker: Worker, recipe: Recipe, started: float, threads: int) -> dict[str, Any]:
    """Take the first step; seconds since `started`, and the environment, whose threads are checked."""
    worker.call("time_training", recipe=to_dict(recipe), steps=1)
    seconds = time.perf_counter() - started
    environment = worker.call("describe")[1]
    if environment["threads"] != threads:
        raise RunError(f"{contestant.name}: runs {environment['threads']} threads: must be {threads}")
    return {"first_step_seconds": seconds, "environment": environment}


def measure(
    recipe: Recipe,
    *,
    repetitions: int = 5,
    steps: int = 10,
    samples: int = 64,
    threads: int = 2,
    peer: str = "none",
    root: Path = ROOT,
) -> dict[str, Any]:
    """Time training and sampling of both frameworks on random images and initial weights; plain JSON values.

    Args:
        recipe: network, batch size, optimiser and sampler; its data are not read.
        repetitions: interleaved repetitions, at least 1.
        steps: optimiser steps a repetition, at least 1.
        samples: images a repetition, at least 1.
        threads: CPU threads of each framework, at least 1.
        peer: none, or a third contestant, timed in training only.
        root: the checkout.
    Returns:
        protocol, machine, contestants (environment, first_step_seconds, training in images/s, sampling in seconds an
        image, peak_bytes) and ratios (of speeds, paired by repetition).
    Raises:
        ValueError: a number or peer out of range. RunError: a worker failed, or runs another number of threads.
    """
    numbers = {"repetitions": repetitions, "steps": steps, "samples": samples, "threads": threads}
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"--{name} {value}: must be at least 1")
    runners, before = contestants(peer), machine()
    sampling = [c.name for c in runners if c.samples]
    result: dict[str, dict[str, Any]] = {}
    workers = {
        c.name: Worker(c.framework, threads=threads, timeout=CALL_SECONDS, root=root, module=c.module) for c in runners
    }
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(_progress((len(runners) + len(sampling)) * (1 + repetitions)))
        race = Race({}, recipe, progress)
        for c in runners:
            started = time.perf_counter()
            worker = race.workers[c.name] = stack.enter_context(workers[c.name])
            result[c.name] = _start(c, worker, recipe, started, threads)
            race.training_rate(c.name, SETTLING_STEPS)
        rates = _interleaved(list(result), repetitions, lambda name: race.training_rate(name, steps))
        peaks = race.peaks()
        nfe = {name: race.sampling_seconds(name, samples)[1] for name in sampling}  # compiles
        seconds = _interleaved(sampling, repetitions, lambda name: race.sampling_seconds(name, samples)[0])
        peaks_after = race.peaks()
    for name, entry in result.items():
        entry |= {"training_images_per_second": summary(rates[name]), "peak_bytes": {"training": peaks[name]}}
        if name in sampling:
            entry["sampling_seconds_per_image"] = summary(seconds[name])
            entry["peak_bytes"]["training_and_sampling"] = peaks_after[name]
    speeds = {name: [1 / s for s in values] for name, values in seconds.items()}
    return {
        "protocol": {**numbers, "nfe": nfe["torch"], **_sizes(recipe, samples)},
        "machine": before,
        "contestants": result,
        "ratios": {"training": _ratios(rates), "sampling": _ratios(speeds)},
        "recipe": to_dict(recipe),
    }


def _sizes(recipe: Recipe, samples: int) -> dict[str, Any]:
    """How much work a step and a drawing are."""
    return {
        "batch_size": recipe.training.batch_size,
        "sampling_batch_size": min(samples, recipe.sampling.batch_size),
        "parameters": count_parameters(recipe.model),
        "image_shape": list(recipe.image_shape),
        "dtype": recipe.training.dtype,
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


def _interleaved(names: Sequence[str], repetitions: int, call: Callable[[str], float]) -> dict[str, list[float]]:
    """One measurement of each in turn, `repetitions` times."""
    values: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repetitions):
        for name in names:
            values[name].append(call(name))
    return values
