"""The folder of a run: recipe, metrics, sample grids, checkpoints, and which one is the latest.

runs/NAME/{recipe.json, run.json, metrics.jsonl, samples/, checkpoints/step-00002000/, averages/, latest, best}
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoints.checkpoint import (
    Checkpoint,
    checkpoints_of,
    is_checkpoint,
    load_checkpoint,
    named_in,
    save_checkpoint,
)
from core.checkpoints.pretrained import refuse_pretrained
from core.config import Recipe
from core.config.recipes import to_dict
from core.files import remove_folder, remove_leftovers, write_json, write_tensors, write_text_atomic
from core.networks.specs import check_weights
from core.reading import check_kinds, read_lines, read_tensors

logger = logging.getLogger(__name__)


def _step_of(path: Path) -> int:
    """The step in the name of a snapshot.

    Raises:
        ValueError: another name; the message names the file.
    """
    step = path.stem.removeprefix("step-")
    if not step.isdecimal():
        raise ValueError(f"{path}: its name must be step-NUMBER{path.suffix}; rename or remove it")
    return int(step)


def _check_metrics(name: str, line: dict[str, Any]) -> None:
    """Raise ValueError where a line of metrics has no step, or another value than numbers and nulls."""
    check_kinds(name, line, {"step": int})
    check_kinds(name, line, {key: float for key, value in line.items() if value is not None or key == "distance"})
    if line["step"] < 0:
        raise ValueError(f"{name}: step is {line['step']}: must be at least 0")


class RunFolder:
    """A run's folder.

    Args:
        path: the folder; made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def metrics_path(self) -> Path:
        """The file of metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    def check_new(self) -> None:
        """Raise ValueError where the folder already holds a run, or is pretrained:NAME."""
        refuse_pretrained(self.path, "--run")
        if (self.path / "recipe.json").exists():
            raise ValueError(
                f"{self.path}: already holds a run; go on with --resume {self.path}, or name another --run"
            )

    def create(self, recipe: Recipe) -> None:
        """Make the folder of a new run.

        Raises:
            ValueError: it already holds a run.
        """
        self.check_new()
        self.sweep()  # of a start that was killed
        (self.path / "samples").mkdir(parents=True, exist_ok=True)
        (self.path / "checkpoints").mkdir(exist_ok=True)
        write_json(self.path / "recipe.json", to_dict(recipe))
        self.metrics_path.touch()

    def load_last(self) -> Checkpoint | None:
        """The checkpoint to go on from: the one that `latest` names, or else the newest that is whole.

        Returns:
            The checkpoint; None where the run has none yet.
        Raises:
            ValueError: there are checkpoints, and none of them is whole.
        """
        folders, damaged = checkpoints_of(self.path), []
        for folder in folders:
            try:
                checkpoint = load_checkpoint(folder)
            except ValueError as error:
                damaged.append(str(error))
                continue
            if damaged:
                logger.warning("%s; going on from %s", "; ".join(damaged), folder)
            return checkpoint
        if damaged:
            raise ValueError(
                f"{self.path / 'checkpoints'}: no checkpoint is whole ({'; '.join(damaged)}); nothing was changed; "
                "name another --run to start again"
            )
        return None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock, the file `lock`, so that one process at a time trains in the folder.

        The system gives a dead process's lock back. On a network file system without locks nothing is locked.

        Raises:
            ValueError: another process holds it; the message names host and process.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "lock", "a+", encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = " ".join(file.read(200).split()) or "another process"
                raise ValueError(f"{self.path}: {holder} trains in this folder; wait for it, or stop it") from None
            except OSError as error:
                logger.warning("%s: cannot be locked (%s): start no second training in it", self.path, error.strerror)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
            yield

    def note_change(self, step: int, changes: Mapping[str, tuple[Any, Any]]) -> None:
        """Append to changes.jsonl what of the recipe was changed when the run went on, old and new by key."""
        if changes:
            values = {key: {"old": old, "new": new} for key, (old, new) in changes.items()}
            with open(self.path / "changes.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")

    def sweep(self) -> None:
        """Remove half-written files of dead processes."""
        walk = os.walk(self.path)  # which, unlike rglob, goes on where another program removes a folder
        remove_leftovers(Path(folder, name) for folder, *names in walk for name in (*names[0], *names[1]))

    def recover(self, step: int) -> None:
        """Tidy up after a run that was killed.

        Half-written files go, and so do metrics and averages that are later than the last checkpoint. `best` names the
        checkpoint that the metrics say.

        Args:
            step: of the last checkpoint; 0 where there is none.
        """
        self.sweep()
        for later in (self.path / "averages").glob("step-*.safetensors"):
            if _step_of(later) > step:
                later.unlink()
        self._drop_metrics_after(step)
        best = self._best_line()
        name = f"step-{best['step']:08d}" if best else ""
        if name and (self.path / "checkpoints" / name).is_dir():
            write_text_atomic(self.path / "best", f"{name}\n")

    def _drop_metrics_after(self, step: int) -> None:
        """Forget later lines, and a last line cut short."""
        self.metrics_path.touch()  # killed before the first line
        kept = [json.dumps(line) for line in self.metrics() if line["step"] <= step]
        write_text_atomic(self.metrics_path, "".join(f"{line}\n" for line in kept))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl.

        Raises:
            ValueError: no such file, or a damaged one.
        """
        return read_lines(self.metrics_path, _check_metrics)

    def log(self, values: dict[str, Any]) -> None:
        """Append one line of metrics."""
        with open(self.metrics_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def save(self, checkpoint: Checkpoint, keep: int, best: bool = False) -> Path:
        """Write a checkpoint, point `latest` at it, and remove earlier ones but for the best and the last `keep`.

        Args:
            checkpoint: what to write.
            keep: training.keep_checkpoints; 0 removes none.
            best: point `best` at it, too.
        Raises:
            OSError: disk full or not writable; `latest` still names the checkpoint before.
        """
        name = f"step-{checkpoint.progress['step']:08d}"
        folder = self.path / "checkpoints" / name
        self._save_averages(checkpoint, f"{name}.safetensors")  # first: a checkpoint that is there is not saved again
        save_checkpoint(folder, checkpoint)
        if best:
            write_text_atomic(self.path / "best", f"{name}\n")
        write_text_atomic(self.path / "latest", f"{name}\n")
        spared = (folder, self._best())
        earlier = sorted(p for p in folder.parent.iterdir() if is_checkpoint(p) and p not in spared and p.name < name)
        for old in earlier[: max(len(earlier) - keep + 1, 0)] if keep else []:
            remove_folder(old)
        return folder

    def _save_averages(self, checkpoint: Checkpoint, name: str) -> None:
        """Keep a checkpoint's profiles of training.ema_profiles when it is gone itself."""
        kept = {n: value for n, value in checkpoint.state.items() if n.startswith("profile_")}
        if kept:
            write_tensors(self.path / "averages" / name, kept)

    def averages(self, recipe: Recipe) -> list[tuple[int, float, dict[str, np.ndarray]]]:
        """All snapshots of averages: steps done, sigma_rel, weights by name.

        Args:
            recipe: the run's recipe.
        Raises:
            ValueError: a damaged file, or one of another network.
        """
        found = []
        for path in sorted((self.path / "averages").glob("step-*.safetensors")):
            tensors = read_tensors(path)
            for i, sigma_rel in enumerate(recipe.training.ema_profiles):
                prefix = f"profile_{i}/"
                weights = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
                check_weights(weights, recipe.model, f"{path} ({prefix[:-1]})")
                found.append((_step_of(path), sigma_rel, weights))
        return found

    def _best(self) -> Path | None:
        """The checkpoint that `best` names, where there is one."""
        name = named_in(self.path / "best")
        return self.path / "checkpoints" / name if name else None

    def best_distance(self) -> float:
        """The smallest distance in the metrics so far; infinite where there is none."""
        best = self._best_line()
        return float(best["distance"]) if best else math.inf

    def _best_line(self) -> dict[str, Any] | None:
        """The line of metrics with the smallest distance, the first of equal ones."""
        measured = (line for line in self.metrics() if "distance" in line)
        return min(measured, key=lambda line: line["distance"], default=None)
