"""Whether a checkpoint is as it was saved: the sums of its files, and numbers that agree with each other."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from core.config import Recipe
from core.files import file_hash
from core.reading import read_json, shown

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
"""2 has sums of its files; 1, of earlier versions, has none."""
STATE = "training_state.json"
"""The file that holds the sums of the others, and step and counters."""
COUNTERS = ("adam_steps", "skipped", "skipped_in_a_row")


def sum_of(path: Path) -> dict[str, Any]:
    """SHA-256 sum and size in bytes of a file.

    Raises:
        OSError: it cannot be read.
    """
    return {"sha256": file_hash(path), "bytes": path.stat().st_size}


def check_sums(folder: Path, names: Collection[str], accepted: Collection[str] = ()) -> None:
    """Compare files of a checkpoint with the sums that were stored when it was saved.

    A folder without sums (imported, saved by others or in format 1) is accepted, and logged.

    Args:
        folder: the checkpoint.
        names: the files to check, relative to the folder.
        accepted: those of the names that may have changed; a change is logged.
    Raises:
        ValueError: an unknown format, a missing sum, or a file that is missing or changed; the message names the file.
    """
    path = folder / STATE
    progress = read_json(path) if path.is_file() else {"format": 1}
    version, sums = progress.get("format"), progress.get("files")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(
            f"{path}: format = {shown(version)}: must be 1 or {FORMAT_VERSION}; a newer version may have saved it"
        )
    if version == 1 and sums is not None:
        raise ValueError(f"{path}: format = 1, and it holds sums, which that format has not; use another checkpoint")
    if version == 1:
        logger.info("%s: holds no SHA-256 sums of its files; damage to them may go unnoticed", folder)
        return
    for name in names:
        problem = _problem(folder / name, sums.get(name) if isinstance(sums, dict) else None)
        if not problem:
            continue
        if name not in accepted:
            hint = "; sample, edit, likelihood and export take changed weights with --changed-weights"
            raise ValueError(f"{problem}; use another checkpoint{hint if name.endswith('.safetensors') else ''}")
        logger.warning("%s; it is used all the same, because of --changed-weights", problem)


def _problem(path: Path, expected: Any) -> str:
    """What is wrong with a file, or '' where it has the size and sum that are expected."""
    if expected is None:
        return f"{path}: has no SHA-256 sum in {STATE}"
    try:
        found = sum_of(path)
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    return "" if found == expected else f"{path}: damaged, or changed since it was saved (another size or SHA-256 sum)"


def make_progress(recipe: Recipe, step: int, counters: Mapping[str, int], seconds: float = 0.0) -> dict[str, Any]:
    """How far a training has come, as a checkpoint keeps it.

    Args:
        recipe: the training's recipe.
        step: number of optimiser steps, skipped ones included.
        counters: COUNTERS by name.
        seconds: wall-clock time so far.
    """
    return {
        "step": step,
        "data_position": step * recipe.training.batch_size,
        "seed": recipe.training.seed,
        "seconds": round(seconds, 3),
        "counters": dict(counters),
    }


def check_progress(folder: Path, progress: Mapping[str, Any], recipe: Recipe) -> None:
    """Demand that step, counters, data position and seed agree with each other, the recipe and the folder's name.

    Args:
        folder: the checkpoint.
        progress: the content of its training_state.json.
        recipe: its recipe.
    Raises:
        ValueError: they do not; the message names the file and the value.
    """
    path, counters = folder / STATE, progress.get("counters")
    if not isinstance(counters, dict) or not counters.keys() <= {*COUNTERS}:
        raise ValueError(f"{path}: counters = {shown(counters)}: must be {', '.join(COUNTERS)} by name")
    for name, value in {"step": progress.get("step"), **{name: counters.get(name) for name in COUNTERS}}.items():
        if type(value) is not int or value < 0:
            raise ValueError(f"{path}: {name} = {shown(value)}: must be a whole number, at least 0")
    step, named = progress["step"], re.fullmatch(r"step-(\d+)", folder.name)
    if named and int(named[1]) != step:
        raise ValueError(f"{path}: step = {step}, and the folder is named {folder.name}; use another checkpoint")
    adam_steps, skipped, in_a_row = (counters[name] for name in COUNTERS)
    if adam_steps + skipped != step or in_a_row > skipped:
        raise ValueError(f"{path}: counters = {shown(counters)}: must add up to step = {step}; use another checkpoint")
    seconds: Any = progress.get("seconds")
    if type(seconds) not in (int, float) or not 0 <= seconds < math.inf:
        raise ValueError(f"{path}: seconds = {shown(seconds)}: must be a number, at least 0")
    expected = make_progress(recipe, step, counters)
    for name in ("data_position", "seed"):
        if type(progress.get(name)) is not int or progress[name] != expected[name]:
            raise ValueError(
                f"{path}: {name} = {shown(progress.get(name))}: must be {expected[name]}, by step and recipe"
            )
