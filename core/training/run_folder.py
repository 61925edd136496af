"""The folder of a run: recipe, metrics, sample grids, checkpoints, and which one is the latest.

    runs/NAME/{recipe.json, run.json, metrics.jsonl, samples/, checkpoints/step-00002000/, latest}

This module imports no framework.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from core.config import Recipe, to_dict
from core.model.checkpoint import Checkpoint, save_checkpoint, write_json, write_text_atomic


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

    def create(self, recipe: Recipe) -> None:
        """Make the folder of a new run.

        Raises:
            ValueError: it already holds a run.
        """
        if (self.path / "recipe.json").exists():
            raise ValueError(f"{self.path}: already holds a run; go on with --resume {self.path}, or name another --run")
        (self.path / "samples").mkdir(parents=True, exist_ok=True)
        (self.path / "checkpoints").mkdir(exist_ok=True)
        write_json(self.path / "recipe.json", to_dict(recipe))
        self.metrics_path.touch()

    def drop_metrics_after(self, step: int) -> None:
        """Forget the lines that a run wrote after its last checkpoint, and a last line cut short."""
        kept = []
        for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except ValueError:
                break
        write_text_atomic(self.metrics_path, "".join(f"{line}\n" for line in kept))

    def log(self, values: dict[str, Any]) -> None:
        """Append one line of metrics."""
        with open(self.metrics_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def save(self, checkpoint: Checkpoint, keep: int) -> Path:
        """Write a checkpoint, point `latest` at it, and remove all but the last `keep` (0 keeps all)."""
        name = f"step-{checkpoint.progress['step']:08d}"
        folder = self.path / "checkpoints" / name
        save_checkpoint(folder, checkpoint)
        write_text_atomic(self.path / "latest", f"{name}\n")
        others = sorted(p for p in folder.parent.iterdir() if p.name.startswith("step-") and p != folder)
        for old in others[: max(len(others) - keep + 1, 0)] if keep else []:
            shutil.rmtree(old)
        return folder
