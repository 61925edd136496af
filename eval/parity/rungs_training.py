"""Rung 6, second half, and rungs 7 and 8: optimiser steps, checkpoints, a run that changes frameworks, a longer run.

Imports NumPy, core and eval's own modules: no framework, no twin.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core.checkpoints.sums import make_progress
from core.config import Recipe
from core.config.recipes import to_dict
from eval.parity.ladder import PARTS, Board, Twins, at_once, part, under
from eval.parity.subject import Arrays, Subject, chart_for, images_for, stress
from eval.parity.tolerances import EXACT, GRADIENT_FLOAT64, RESUMED_FLOAT64
from eval.twins.client import Worker
from eval.twins.interpreters import Framework

STEPS, HALF = 20, 10
"""Optimiser steps of the uninterrupted run, and where the run that changes frameworks goes on."""
Trained = tuple[Arrays, dict[str, int]]


def train(worker: Worker, recipe: Recipe, first: int, steps: int, state: Trained | None = None) -> Trained:
    """Arrays and counters after optimiser steps `first` to `first + steps`.

    Args:
        worker, recipe: who trains what, on simulated lenses.
        first, steps: which steps.
        state: where to begin; None for the seed, or with `first` above 0 for where the worker's last steps ended.
    """
    given, counters = state or ({}, None)
    arrays = images_for(recipe, 12) | {name: value for name, value in given.items() if _is_state(name)}
    result, info = worker.call("train", arrays, recipe=to_dict(recipe), first=first, steps=steps, counters=counters)
    return result, info["counters"]


def _uninterrupted(twins: Twins, subject: Subject, board: Board) -> dict[int, dict[Framework, Trained]]:
    """One training of twenty steps in each framework, as it stood after 1, 10 and 20; made once a climb."""
    recipe, first = stress(subject.recipe, "float64"), 0
    for end in () if board.run else (1, HALF, STEPS):
        made = at_once(*(partial(train, worker, recipe, first, end - first) for worker in twins.values()))
        for framework, (arrays, _) in zip(twins, made, strict=True):
            for name in ("loss", "grad_norm"):
                before = [board.run[first][framework][0][name]] if first else []
                arrays[name] = np.concatenate([*before, arrays[name]])
        board.run[end], first = dict(zip(twins, made, strict=True)), end
    return board.run


def _is_state(name: str) -> bool:
    """Whether a trained array is something to go on from: weights and moments, profiles, remembered losses."""
    return name.split("/")[0] in (*PARTS, "timesteps") or name.startswith("profile_")


def steps_of_training(twins: Twins, subject: Subject, board: Board) -> None:
    """Twenty optimiser steps: clip, warm-up, decay, weight decay, accumulation, moving average."""
    run = _uninterrupted(twins, subject, board)
    for steps in (1, STEPS):
        (torch, counters), (tensorflow, others) = run[steps].values()
        board.close("counters", np.array(list(others.values())), np.array(list(counters.values())), EXACT)
        for name in ("loss", "grad_norm"):
            board.close(f"{name}, {steps} steps", tensorflow[name], torch[name], GRADIENT_FLOAT64)
        profiles = [f"profile_{i}" for i in range(len(subject.recipe.training.ema_profiles))]
        for name in (*PARTS, *profiles):
            board.all_close(f"{name}, {steps} steps", part(name, tensorflow), part(name, torch), GRADIENT_FLOAT64)
    del run[1]  # not needed again, and a large network's states are gigabytes


def checkpoint(twins: Twins, subject: Subject, board: Board) -> None:
    """A checkpoint written by PyTorch, read and written by TensorFlow, read by PyTorch: bit for bit."""
    start = _uninterrupted(twins, subject, board)[HALF]["torch"]
    _there_and_back(twins, board, stress(subject.recipe, "float64"), HALF, start)


def checkpoint_in_float32(twins: Twins, subject: Subject, board: Board) -> None:
    """The same in float32; after rung 8, since a worker keeps one trainer, and rung 8 goes on with float64's."""
    recipe = stress(subject.recipe, "float32")
    _there_and_back(twins, board, recipe, 2, train(twins["torch"], recipe, 0, 2))


def _there_and_back(twins: Twins, board: Board, recipe: Recipe, steps: int, start: Trained) -> None:
    route: tuple[Framework, ...] = ("torch", "tensorflow", "torch")
    state = start
    for framework in route:
        with tempfile.TemporaryDirectory(prefix="diptych-") as folder:
            stored = _through_disk(Path(folder) / "checkpoint", recipe, steps, state)
        state = train(twins[framework], recipe, steps, 0, stored)
        if state[1] != start[1]:  # a checkpoint with other counters would be refused
            break
    found, expected = (np.array(list(end[1].values())) for end in (state, start))
    board.close("counters", found, expected, EXACT)
    for name in PARTS:
        board.all_close(f"{name} there and back", part(name, state[0]), part(name, start[0]), EXACT)


def _through_disk(folder: Path, recipe: Recipe, step: int, state: Trained) -> Trained:
    """A state written as a checkpoint and read again."""
    arrays, counters = state
    raw = {name: value for name, value in arrays.items() if _is_state(name) and not name.startswith("ema/")}
    progress, chart = make_progress(recipe, step, counters), chart_for(recipe)
    save_checkpoint(folder, Checkpoint(recipe, part("ema", arrays), raw, progress, {}, chart))
    stored = load_checkpoint(folder)
    return under("ema", stored.ema) | stored.state, stored.progress["counters"]


def going_on(twins: Twins, subject: Subject, board: Board) -> None:
    """Ten steps in one framework and ten more in the other, against twenty in either."""
    recipe, run = stress(subject.recipe, "float64"), _uninterrupted(twins, subject, board)
    ways: tuple[tuple[Framework, Framework], ...] = (("torch", "tensorflow"), ("tensorflow", "torch"))
    ends = at_once(*(partial(train, twins[then], recipe, HALF, STEPS - HALF, run[HALF][first]) for first, then in ways))
    del run[HALF]
    for (first, then), (found, counters) in zip(ways, ends, strict=True):
        board.close("counters", np.array(list(counters.values())), np.array(list(run[STEPS][first][1].values())), EXACT)
        for reference, (expected, _) in run[STEPS].items():
            label = f"{first}, then {then}, against {reference}"
            board.close(f"loss: {label}", found["loss"], expected["loss"][HALF:], RESUMED_FLOAT64)
            for name in PARTS:
                board.all_close(f"{name}: {label}", part(name, found), part(name, expected), RESUMED_FLOAT64)
    run.clear()


def long_run(steps: int) -> Callable[[Twins, Subject, Board], None]:
    """The rung that trains for longer and watches how far the frameworks drift apart."""

    def rung(twins: Twins, subject: Subject, board: Board) -> None:
        """A longer run on simulated lenses, and the drift of the weights from step to step."""
        watch = max(1, steps // 30)
        ends: dict[str, list[Any]] = {}
        for dtype in ("float64", "float32"):
            plain = {"accumulate": 1, "learning_rate": 1e-3, "clip_norm": 1.0, "weight_decay": 0.0}
            optimizer = "muon" if subject.recipe.training.optimizer == "muon" else "adam"
            recipe = stress(subject.recipe, dtype, steps=steps, warmup_steps=steps // 10, optimizer=optimizer, **plain)
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
        moved = np.linalg.norm(tensorflow["watched"] - torch["watched"], axis=1)
        size = np.linalg.norm(torch["watched"], axis=1)
        drift[dtype] = {"x": torch["watched_steps"].tolist(), "y": (moved / size).tolist()}
    board.curves |= {"loss": losses, "loss apart": apart, "weights apart": drift}
