"""Make the lens extractor's weights: simulate images, train, score on held-out images, write.

    python -m torch_impl.train_lens_extractor --out core/extractors

This file has no twin: PyTorch makes the weights once, and both twins read them. It takes some fifteen minutes on two
CPU cores. The same command gives the same data, order and initial weights. The weights' last digits depend on the
machine and the number of threads.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional as F

from core.command_line import parse
from core.exits import end
from core.extractors.lens import QUALITY, channels, initial_weights
from core.extractors.lens_training import (
    GROUP,
    SCORED,
    Group,
    degrade,
    reflect,
    scores,
    simulate_groups,
    training_groups,
)
from core.extractors.lens_weights import write_lens_weights
from core.random import generator
from torch_impl.lens_extractor import LensExtractor, build_lens_network


@dataclass(frozen=True)
class Options:
    """How the weights are made."""

    out: str = "core/extractors"
    """Folder for lens_extractor.safetensors and lens_extractor.json."""
    images: int = 48000
    """Number of simulated training images, a multiple of 1,500. Lower it for a quick trial."""
    steps: int = 4500
    """Number of optimiser steps. Lower it for a quick trial."""
    batch_size: int = 64
    """Images in one optimiser step."""
    learning_rate: float = 1.5e-3
    """Peak learning rate. It is reached after 50 steps, and then falls linearly to 0."""
    held_out: int = 3000
    """Number of images in each held-out set, a multiple of 250."""
    seed: int = 1
    """Seed of data, initial weights, order and reflections. The held-out images have a fixed seed."""
    threads: int = 2
    """Number of CPU threads, and of processes that simulate images."""


WARMUP_STEPS = 50
CLIP_NORM = 1.0
CLASS_WEIGHT = 1.0
"""Weight of the cross entropy; the mean squared error of the standardised parameters has weight 1."""

DEGRADED = 4
"""One image in DEGRADED is blurred or made noisier. Its class does not enter the loss."""

TRAINING_SEED, HELD_OUT_SEED = 1_000_003, 2_000_003  # seeds of the simulator, which no recipe takes
LOG_EVERY = 250


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Learning rate of a step (0-based): linear warm-up to `peak`, times a linear decay to zero."""
    return peak * min((step + 1) / WARMUP_STEPS, 1.0) * (1 - step / steps)


def train(
    data: tuple[np.ndarray, np.ndarray, np.ndarray], steps: int, batch_size: int, peak: float, seed: int
) -> LensExtractor:
    """Train the network with Adam and clipped gradients.

    Args:
        data: images (N, 64, 64, 1) float32, labels (N,) and targets (N, 8), as simulate_groups() returns them.
        steps: number of optimiser steps.
        batch_size: images in one step.
        peak: peak learning rate.
        seed: seed of initial weights, order and reflections.
    Returns:
        The network in evaluation mode. Its `parameters` have the units of the targets.
    """
    images, labels, targets = data
    mean, scale = targets.mean(axis=0), targets.std(axis=0)
    scale[-len(QUALITY) :] = 1.0  # of order one as they are; without degradation they do not vary
    network = build_lens_network(initial_weights(seed)).train()
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    rng = generator(seed, "rows", 1)
    order, losses, started = np.empty(0, np.int64), [], time.perf_counter()
    for step in range(steps):
        if len(order) < batch_size:
            order = np.concatenate([order, rng.permutation(len(images))])
        rows, order = order[:batch_size], order[batch_size:]
        x, y = reflect(images[rows], targets[rows], *(rng.random(2) < 0.5))
        spoilt = batch_size // DEGRADED
        x_spoilt, y_spoilt = degrade(x[:spoilt], y[:spoilt], rng)
        x, y = np.concatenate([x_spoilt, x[spoilt:]]).astype(np.float32), np.concatenate([y_spoilt, y[spoilt:]])
        found = network(torch.from_numpy(np.ascontiguousarray(channels(x).transpose(0, 3, 1, 2))))
        wanted = torch.from_numpy(((y - mean) / scale).astype(np.float32))
        parts = (
            F.mse_loss(found["parameters"], wanted),
            F.cross_entropy(found["logits"][spoilt:], torch.from_numpy(labels[rows[spoilt:]])),
        )
        optimizer.zero_grad(set_to_none=True)
        (parts[0] + CLASS_WEIGHT * parts[1]).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, peak)
        optimizer.step()
        losses.append([part.item() for part in parts])
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            squared, entropy = np.mean(losses[-LOG_EVERY:], axis=0)
            rate = batch_size * (step + 1) / (time.perf_counter() - started)
            values = f"squared error {squared:.4f}, cross entropy {entropy:.4f}, {rate:.0f} images/s"
            print(f"step {step + 1}: {values}", file=sys.stderr)
    with torch.no_grad():  # the head undoes the standardisation
        head = cast(torch.nn.Linear, network.get_submodule("to_parameters"))
        head.bias.copy_(head.bias * torch.from_numpy(scale) + torch.from_numpy(mean))
        head.weight.mul_(torch.from_numpy(scale)[:, None])
    return network.eval()


def held_out_scores(network: LensExtractor, count: int, threads: int) -> dict[str, Any]:
    """Scores on `count` held-out images of each entry of SCORED, undegraded and degraded; 50 images share a blur."""
    found = {}
    for preset, size, field in SCORED:
        groups = [Group(preset, size, field, HELD_OUT_SEED, first) for first in range(0, count, GROUP)]
        images, labels, targets = simulate_groups(groups, threads, progress)
        name = f"{preset}, {size} px, {field} arcsec"
        found[name] = scores(evaluate(network, images), labels, targets)
        rng = generator(HELD_OUT_SEED, "rows", 2)
        parts = [
            degrade(*part, rng)
            for part in zip(np.split(images, count // 50), np.split(targets, count // 50), strict=True)
        ]
        images, targets = (np.concatenate(part) for part in zip(*parts, strict=True))
        found[f"{name}, degraded"] = scores(evaluate(network, images.astype(np.float32)), labels, targets)
    return found


@torch.inference_mode()
def evaluate(network: LensExtractor, images: np.ndarray) -> dict[str, np.ndarray]:
    """The network's outputs for images (N, 64, 64, 1)."""
    x = torch.from_numpy(channels(images).transpose(0, 3, 1, 2).copy())
    parts = [network(part) for part in x.split(500)]
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def progress(results: Iterable[Any], total: int) -> Iterable[Any]:
    """A progress bar on stderr for the simulation."""
    from tqdm import tqdm

    return tqdm(results, "simulate", total, unit="group", mininterval=5.0)


def main(argv: list[str]) -> int:
    """Simulate, train, score, write."""
    options = parse(Options, argv, "python -m torch_impl.train_lens_extractor", __doc__ or "")
    for name, least in (("steps", 1), ("batch_size", DEGRADED), ("threads", 1)):
        if (value := getattr(options, name)) < least:
            raise ValueError(f"{name} = {value}: must be at least {least}")
    if options.held_out < 1 or options.held_out % GROUP:
        raise ValueError(f"held_out = {options.held_out}: must be a multiple of {GROUP}")
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    data = simulate_groups(training_groups(options.images, TRAINING_SEED + options.seed), options.threads, progress)
    simulated = time.perf_counter()
    network = train(data, options.steps, options.batch_size, options.learning_rate, options.seed)
    trained = time.perf_counter()
    chosen = {name: value for name, value in asdict(options).items() if name != "out"}
    flags = [f"--{n.replace('_', '-')} {value}" for n, value in chosen.items() if value != getattr(Options(), n)]
    manifest: dict[str, Any] = {
        "command": " ".join(["python -m torch_impl.train_lens_extractor", *flags]),
        "options": chosen,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "seconds": {"simulate": round(simulated - started), "train": round(trained - simulated)},
        "held_out": held_out_scores(network, options.held_out, options.threads),
    }
    weights = {name: p.detach().numpy() for name, p in network.named_parameters()}
    write_lens_weights(Path(options.out), weights, manifest)
    for name, score in manifest["held_out"].items():
        r2 = ", ".join(f"{parameter} {value:.4f}" for parameter, value in score["r2"].items())
        print(f"{name}: R2 {r2}; accuracy {score['accuracy']:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(end(lambda: main(sys.argv[1:])))
