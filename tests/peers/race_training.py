"""A peer in the race: it trains for a number of seconds, draws images, and writes them with facts about both.

Each peer has a script, which says what is trained (an Entry). `python -m tests.peers.race_NAME JOB` runs it in the
environment of the race. JOB is a JSON file with the fields of Job.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.command_line import keep_freed_memory
from core.config import Recipe
from core.config.recipes import from_dict
from core.files import write_json, write_npy
from core.training.optim import learning_rate

WARMUP_SHARE = 0.1
"""Largest share of the training for the warm-up of the learning rate, for every contestant."""
DRAWN_AT_ONCE = 64
"""Images drawn at a time."""


@dataclass(frozen=True)
class Job:
    """What a peer must do."""

    images: str
    """Training images, an .npy file (N, H, W, C) in [0, 1]."""
    recipe: dict
    """Recipe of our contestants, for the matched peers."""
    matched: bool
    """Whether size, learning rate, batch size and warm-up are ours, as far as the peer can have them."""
    seconds: float
    """Length of the training, without the first step."""
    seed: int
    n: int
    """Images to draw."""
    fewer: int
    """Images to draw where n would take longer than drawing_seconds."""
    drawing_seconds: float
    threads: int
    out: str
    """Folder for samples.npy and facts.json."""


@dataclass
class Entry:
    """A peer's network, objective and sampler. Images are (B, C, H, W) in [0, 1] on both sides."""

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[torch.Tensor], torch.Tensor]
    rate: Callable[[float], float]
    """Learning rate at a share of the training, in [0, 1), before the warm-up."""
    warmup_steps: int
    batch_size: int
    flip: bool
    """Whether the peer mirrors training images."""
    clip_norm: float
    """Largest norm of the gradient; 0 for no limit."""
    average: Callable[[], object]
    """Update the average of the weights after a step."""
    averaged: Callable[[], contextlib.AbstractContextManager]
    """Within it the network has the averaged weights."""
    draw: Callable[[int], torch.Tensor]
    sampler: str
    """Name of the sampler and its number of evaluations, in words."""
    evaluations: int
    packages: tuple[str, ...]
    """Distributions whose versions are noted."""


def batches(images: np.ndarray, entry: Entry, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Batches without end, in a new order each time through the images."""
    while True:
        order = torch.randperm(len(images), generator=generator).numpy()
        for start in range(0, len(order) - entry.batch_size + 1, entry.batch_size):
            chosen = np.sort(order[start : start + entry.batch_size])
            batch = torch.from_numpy(np.ascontiguousarray(images[chosen].transpose(0, 3, 1, 2)))
            if entry.flip:
                mirrored = torch.rand(len(batch), generator=generator) < 0.5
                batch[mirrored] = batch[mirrored].flip(-1)
            yield batch


def train(entry: Entry, images: np.ndarray, seconds: float, generator: torch.Generator) -> tuple[int, float]:
    """Train until the seconds are spent; the number of steps, and the seconds of all but the first."""
    source, steps, started = batches(images, entry, generator), 0, math.inf
    parameters = list(entry.network.parameters())
    entry.network.train()
    while (passed := max(time.perf_counter() - started, 0.0)) < seconds:
        share = passed / seconds
        warm = 1.0
        if entry.warmup_steps:
            warm = min(1.0, max((steps + 1) / entry.warmup_steps, share / WARMUP_SHARE))
        for group in entry.optimizer.param_groups:
            group["lr"] = entry.rate(share) * warm
        entry.optimizer.zero_grad(set_to_none=True)
        entry.loss(next(source)).backward()
        if entry.clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters, entry.clip_norm)
        entry.optimizer.step()
        entry.average()
        steps += 1
        if steps == 1:
            started = time.perf_counter()
    return steps, time.perf_counter() - started


def draw(entry: Entry, job: Job) -> tuple[np.ndarray, float]:
    """Draw n images, or fewer where n would take too long by the time of the first batch; and the seconds."""
    n, parts, done, started = job.n, [], 0, time.perf_counter()
    entry.network.eval()
    with entry.averaged(), torch.no_grad():
        while done < n:
            parts.append(entry.draw(min(DRAWN_AT_ONCE, n - done)).clamp(0, 1).cpu())
            done += len(parts[-1])
            if len(parts) == 1 and (time.perf_counter() - started) * job.n / done > job.drawing_seconds:
                n = min(n, job.fewer)
    images = torch.cat(parts).permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(images, np.float32)[:n], time.perf_counter() - started


def ours_rate(recipe: Recipe) -> Callable[[float], float]:
    """The learning rate of our recipe by the share of the training, without its warm-up."""
    config = dataclasses.replace(recipe.training, steps=1_000_000, warmup_steps=0)
    return lambda share: learning_rate(config, min(int(share * config.steps), config.steps - 1))


def run(make: Callable[[Job, Recipe, tuple[int, int, int]], Entry]) -> int:
    """Do the job that the first word of the command line names.

    Args:
        make: the peer's entry for a job, our recipe, and (H, W, C) of the images.
    """
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}  # the race is one of CPUs
    keep_freed_memory()  # as our command line does
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    images = np.load(job.images, mmap_mode="r")
    entry = make(job, from_dict(Recipe, job.recipe), images.shape[1:])
    steps, seconds = train(entry, images, job.seconds, torch.Generator().manual_seed(job.seed))
    samples, drawing_seconds = draw(entry, job)
    write_npy(Path(job.out, "samples.npy"), samples)
    facts = {
        "seconds": seconds,
        "steps": steps,
        "images_seen": steps * entry.batch_size,
        "parameters": sum(p.numel() for p in entry.network.parameters() if p.requires_grad),
        "drawing_seconds": drawing_seconds,
        "n": len(samples),
        "sampler": entry.sampler,
        "evaluations": entry.evaluations,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", *entry.packages)},
    }
    write_json(Path(job.out, "facts.json"), facts)
    return 0
