"""Rung 10: several processes train what one process trains."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from core.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint
from core.checkpoints.run_folder import RunFolder
from core.config import DEGRADED
from core.config.recipes import to_dict
from core.exits import RunError
from core.files import write_json
from eval.parity.ladder import Board, Twins, part
from eval.parity.subject import Subject, images_for, stress
from eval.parity.tolerances import EXACT, RANKS_FLOAT64
from eval.twins.client import run_verb
from eval.twins.interpreters import FRAMEWORKS, Framework
from eval.twins.launched import start_together, wait_for

PROCESSES = 2
IMAGES, MATRICES = 24, 200
"""Sizes of the data sets; a chart needs more matrices than coordinates."""
SECONDS = 900
"""How long a training of twenty steps may take."""


def several_processes(twins: Twins, subject: Subject, board: Board) -> None:
    """Twenty steps in two processes, by torchrun and by TF_CONFIG, against twenty in one process."""
    with tempfile.TemporaryDirectory(prefix="diptych-") as name:
        folder = Path(name)
        config = _written(subject, folder)
        for framework in FRAMEWORKS:
            root = twins[framework].root
            words = ["train", "--config", str(config), "--device", "cpu", "--run"]
            one, several = (folder / f"{framework}-{name}" for name in ("one", "several"))
            run_verb(framework, [*words, str(one)], threads=1, timeout=SECONDS, root=root)
            started = start_together(framework, PROCESSES, [*words, str(several)], folder, root)
            codes = wait_for(started, SECONDS)
            if any(codes):
                said = (folder / "process-0.txt").read_text(errors="replace").replace("\r", "\n").splitlines()
                raise RunError(f"{framework}, {PROCESSES} processes: exit codes {codes}: {' / '.join(said[-3:])}")
            _compare(board, framework, one, several)


def _written(subject: Subject, folder: Path) -> Path:
    """The recipe's file, for images or matrices without classes and parameters."""
    data = dataclasses.replace(subject.recipe.data, condition=(), cache=str(folder / "cache"))
    data = dataclasses.replace(data, beside=DEGRADED if data.beside else "", simulate_count=MATRICES)
    if data.space == "image":
        data = dataclasses.replace(data, source=str(folder / "images.npy"))
    model = dataclasses.replace(subject.config, num_class_embeds=None, vector_channels=0, dropout=0.0)
    recipe = stress(subject.recipe, "float64", sample_count=0, checkpoint_every=20, log_every=1)
    recipe = dataclasses.replace(recipe, model=model, data=data)
    if data.space == "image":
        np.save(folder / "images.npy", images_for(recipe, IMAGES)["images"])
    write_json(folder / "recipe.json", to_dict(recipe))
    return folder / "recipe.json"


def _compare(board: Board, framework: Framework, one: Path, several: Path) -> None:
    """The loss and the gradients' norm of each step, and the last averages and training state."""
    alone, together = (load_checkpoint(resolve_checkpoint(run)) for run in (one, several))
    weights = part("params", alone.state)
    found, expected = (np.array(list(c.progress["counters"].values())) for c in (together, alone))
    board.close(f"{framework}, {PROCESSES} processes: counters", found, expected, EXACT)
    for key in ("loss", "grad_norm"):
        found, expected = (np.array([line[key] for line in RunFolder(run).metrics()]) for run in (several, one))
        board.close(f"{framework}, {PROCESSES} processes: {key}", found, expected, RANKS_FLOAT64)
    names = dict.fromkeys(name.split("/")[0] for name in alone.state if not name.startswith("timesteps"))
    sets = {name: (part(name, together.state), part(name, alone.state)) for name in names}
    for name, (ours, theirs) in {"ema": (together.ema, alone.ema), **sets}.items():
        board.all_close(f"{framework}, {PROCESSES} processes: {name}", ours, theirs, RANKS_FLOAT64, oracle=weights)
