"""Rung 6, second half, and rungs 7 and 8: optimiser steps, checkpoints, a run that changes frameworks, a longer run.

Imports NumPy, core and eval's own modules: no framework, no twin.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core.config import Recipe
from core.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core.recipes import to_dict
from eval.parity.ladder import PARTS, Arrays, Board, Subject, Twins, images_for, part, stress, under
from eval.parity.tolerances import EXACT, GRADIENT_FLOAT64, RESUMED_FLOAT64
from eval.twins import Framework, Worker

STEPS = 20
Trained = tuple[Arrays, dict[str, int]]


def train(
    worker: Worker, recipe: Recipe, images: Arrays, first: int, steps: int, state: Trained | None = None, watch: int = 0
) -> Trained:
    """Arrays and counters after optimiser steps `first` to `first + steps`, from the seed or from a state."""
    given, counters = state or ({}, None)
    arrays = images | {name: value for name, value in given.items() if _is_state(name)}
    options = {"recipe": to_dict(recipe), "first": first, "steps": steps, "counters": counters, "watch": watch}
    result, info = worker.call("train", arrays, **options)
    return result, info["counters"]


def _is_state(name: str) -> bool:
    """Whether a trained array is something to go on from: weights and moments, profiles, remembered losses."""
    return name.split("/")[0] in (*PARTS, "timesteps") or name.startswith("profile_")


def steps_of_training(twins: Twins, subject: Subject, board: Board) -> None:
    """Twenty optimiser steps: clip, warm-up, decay, weight decay, accumulation, moving average."""
    for steps in (1, STEPS):
        recipe = stress(subject.recipe, "float64")
        (torch, counters), (tensorflow, others) = _both(twins, recipe, steps)
        board.close("counters", np.array(list(others.values())), np.array(list(counters.values())), EXACT)
        for name in ("loss", "grad_norm"):
            board.close(f"{name}, {steps} steps", tensorflow[name], torch[name], GRADIENT_FLOAT64)
        profiles = [f"profile_{i}" for i in range(len(recipe.training.ema_profiles))]
        for name in (*PARTS, *profiles):
            board.all_close(f"{name}, {steps} steps", part(name, tensorflow), part(name, torch), GRADIENT_FLOAT64)


def _both(twins: Twins, recipe: Recipe, steps: int, watch: int = 0) -> list[Trained]:
    images = images_for(recipe, 12)
    options = {"recipe": to_dict(recipe), "first": 0, "steps": steps, "watch": watch}
    return [(arrays, info["counters"]) for arrays, info in twins.both("train", images, **options)]


def checkpoint(twins: Twins, subject: Subject, board: Board) -> None:
    """A checkpoint written by PyTorch, read and written by TensorFlow, read by PyTorch: bit for bit."""
    for dtype in ("float64", "float32"):
        recipe = stress(subject.recipe, dtype)
        images = images_for(recipe, 12)
        start = state = train(twins["torch"], recipe, images, 0, 2)
        route: tuple[Framework, ...] = ("torch", "tensorflow", "torch")
        for framework in route:
            with tempfile.TemporaryDirectory(prefix="diptych-") as folder:
                stored = _through_disk(Path(folder) / "checkpoint", recipe, state)
            state = train(twins[framework], recipe, images, 2, 0, stored)
        board.close("counters", *(np.array(list(end[1].values())) for end in (state, start)), EXACT)
        for name in PARTS:
            board.all_close(f"{name} there and back", part(name, state[0]), part(name, start[0]), EXACT)


def _through_disk(folder: Path, recipe: Recipe, state: Trained) -> Trained:
    """A state written as a checkpoint and read again."""
    arrays, counters = state
    raw = {name: value for name, value in arrays.items() if _is_state(name) and not name.startswith("ema/")}
    save_checkpoint(folder, Checkpoint(recipe, part("ema", arrays), raw, {"step": 2, "counters": counters}, {}))
    stored = load_checkpoint(folder)
    return under("ema", stored.ema) | stored.state, stored.progress["counters"]


def going_on(twins: Twins, subject: Subject, board: Board) -> None:
    """Ten steps in one framework and ten more in the other, against twenty in either."""
    recipe = stress(subject.recipe, "float64")
    images, half = images_for(recipe, 12), STEPS // 2
    whole = dict(zip(twins, _both(twins, recipe, STEPS), strict=True))
    halves = dict(zip(twins, _both(twins, recipe, half), strict=True))
    ways: tuple[tuple[Framework, Framework], ...] = (("torch", "tensorflow"), ("tensorflow", "torch"))
    for first, second in ways:
        found, counters = train(twins[second], recipe, images, half, STEPS - half, halves[first])
        board.close("counters", np.array(list(counters.values())), np.array(list(whole[first][1].values())), EXACT)
        for reference, (expected, _) in whole.items():
            label = f"{first}, then {second}, against {reference}"
            board.close(f"loss: {label}", found["loss"], expected["loss"][half:], RESUMED_FLOAT64)
            for name in PARTS:
                board.all_close(f"{name}: {label}", part(name, found), part(name, expected), RESUMED_FLOAT64)


def long_run(steps: int) -> Callable[[Twins, Subject, Board], None]:
    """The rung that trains for longer and watches how far the frameworks drift apart."""

    def rung(twins: Twins, subject: Subject, board: Board) -> None:
        """A longer run on simulated lenses, and the drift of the weights from step to step."""
        watch = max(1, steps // 30)
        ends: dict[str, list[Any]] = {}
        for dtype in ("float64", "float32"):
            recipe = stress(subject.recipe, dtype, steps=steps, accumulate=1, learning_rate=1e-3, warmup_steps=steps // 10, clip_norm=1.0, weight_decay=0.0, optimizer="adam")  # fmt: skip
            images = images_for(recipe, 128)
            options = {"recipe": to_dict(recipe), "first": 0, "steps": steps, "watch": watch}
            ends[dtype] = [arrays for arrays, _ in twins.both("train", images, **options)]
        _curves(board, ends, steps)
        torch, tensorflow = ends["float64"]
        board.close(f"loss, {steps} steps", tensorflow["loss"], torch["loss"], GRADIENT_FLOAT64)
        board.close(f"weights, {steps} steps", tensorflow["watched"], torch["watched"], GRADIENT_FLOAT64)

    return rung


def _curves(board: Board, ends: dict[str, list[Arrays]], steps: int) -> None:
    """Loss curves of all four runs, and how far apart their losses and weights are."""
    losses, drift, apart = {}, {}, {}
    x = list(range(1, steps + 1))
    for dtype, (torch, tensorflow) in ends.items():
        for title, arrays in (("PyTorch", torch), ("TensorFlow", tensorflow)):
            losses[f"{title}, {dtype}"] = {"x": x, "y": arrays["loss"].tolist()}
        relative = np.abs(tensorflow["loss"] - torch["loss"]) / np.abs(torch["loss"])
        apart[dtype] = {"x": x, "y": relative.tolist()}
        moved = np.linalg.norm(tensorflow["watched"] - torch["watched"], axis=1) / np.linalg.norm(torch["watched"], axis=1)  # fmt: skip
        drift[dtype] = {"x": torch["watched_steps"].tolist(), "y": moved.tolist()}
    board.curves |= {"loss": losses, "loss apart": apart, "weights apart": drift}
