"""Climbs the ladder and writes parity.json and report.html."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.config.recipes import to_dict
from core.networks.specs import count_parameters
from eval.pages.page import render, write_result
from eval.parity import rungs_core, rungs_distillation, rungs_images, rungs_network, rungs_ranks, rungs_training
from eval.parity.closeness import NotCloseError
from eval.parity.ladder import Board, Measurement, Rung, climb, start_twins
from eval.parity.page import ladder_text, sections
from eval.parity.subject import Subject, open_subject
from eval.twins.interpreters import ROOT


def all_rungs(images: int, ddpm_images: int, long_steps: int) -> list[tuple[int, Rung]]:
    """The whole ladder, in order.

    Args:
        images: images a sampler, at least 2.
        ddpm_images: images of the full DDPM; 0 leaves it out.
        long_steps: optimiser steps of the longer run; 0 leaves it out.
    """
    rungs: list[tuple[int, Rung]] = [
        (1, rungs_core.tables),
        (2, rungs_core.parameters),
        (3, rungs_core.forward_noise),
        (3, rungs_core.keys),
        (3, rungs_core.batches),
        (4, rungs_core.samplers),
        (4, rungs_distillation.distillation),
        (5, rungs_network.layers),
        (5, rungs_network.network),
        (6, rungs_network.gradients),
        (6, rungs_training.steps_of_training),
        (7, rungs_training.checkpoint),
        (8, rungs_training.going_on),
        (7, rungs_training.checkpoint_in_float32),
        (9, rungs_images.images(images, ddpm_images)),
        (10, rungs_ranks.several_processes),
    ]
    return [*rungs, (6, rungs_training.long_run(long_steps))] if long_steps else rungs


def run(
    config: str,
    checkpoint: str | None,
    out: str,
    *,
    images: int,
    ddpm_images: int,
    long_steps: int,
    stop_at_red: bool = False,
    root: Path = ROOT,
) -> str:
    """Climb the ladder and write the report.

    Args:
        config, checkpoint: what open_subject() takes.
        out: folder for parity.json and report.html.
        images, ddpm_images, long_steps: as all_rungs().
        stop_at_red: end with the first rung that is red.
        root: the checkout.
    Returns:
        What to print on stdout.
    Raises:
        ValueError: input that the user must change. NotCloseError: a rung is red; the report is written all the same.
        RunError: a worker failed. OSError: the report cannot be written.
    """
    from tqdm import tqdm

    for name, value, low in (("images", images, 2), ("ddpm-images", ddpm_images, 0), ("long-steps", long_steps, 0)):
        if value < low:
            raise ValueError(f"--{name} {value}: must be at least {low}")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {out}: is a file: must be a folder, or a name that is free")
    subject, started = open_subject(config, checkpoint), time.monotonic()
    rungs = all_rungs(images, ddpm_images, long_steps)
    with (
        start_twins(root=root) as twins,
        tqdm(total=len(rungs), desc="parity", unit="rung", dynamic_ncols=True) as bar,
    ):

        def begin(what: str) -> None:
            bar.update(bar.n < len(rungs) and bool(bar.postfix))
            bar.set_postfix_str(what)

        board = climb(twins, subject, rungs, begin, stop_at_red)
        bar.update()
        environments = {name: worker.call("describe")[1] for name, worker in twins.items()}
    words = f"--checkpoint {checkpoint}" if checkpoint else f"--config {config}"
    words += f" --images {images} --ddpm-images {ddpm_images} --long-steps {long_steps}"
    words += " --stop-at-red" if stop_at_red else ""
    made = {
        "command": f"python -m eval parity {words} --out {out}",
        "seconds": round(time.monotonic() - started, 1),
        "environments": environments,
    }
    return write(folder, board, subject, made)


def write(folder: Path, board: Board, subject: Subject, made: Mapping[str, Any]) -> str:
    """Write parity.json and report.html; arguments and the rest as run() has them.

    Args:
        folder: where to.
        board: what was measured.
        subject: the network.
        made: command, seconds and environments.
    """
    red = [m for m in board.measurements if not m.ok]
    result = {
        "subject": subject.name,
        **made,
        "ok": not red,
        "left_out": board.left_out,
        "parameters": count_parameters(subject.config),
        "rungs": [_entry(m) for m in board.measurements],
        "curves": board.curves,
        "recipe": to_dict(subject.recipe),
    }
    write_result(folder / "parity.json", result)
    title = "The frameworks differ" if red else "The frameworks agree"
    lead = f"{subject.name}, {result['parameters']:,} parameters, in PyTorch and TensorFlow."
    render(folder / "report.html", title, sections(board, result), lead=lead)
    if red:
        first = red[0]
        raise NotCloseError(
            f"{len(red)} of {len(board.measurements)} comparisons are red, the first on rung {first.rung}: "
            f"{first.quantity} ({first.dtype}) differs by {first.measured:.3g}, tolerance {first.tolerance:.3g}, "
            f"{first.where}; see {folder / 'report.html'}"
        )
    return f"{ladder_text(board)}\n\nall {len(board.measurements)} comparisons hold; wrote {folder / 'report.html'}"


def _entry(m: Measurement) -> dict[str, Any]:
    """A measurement as JSON; what could not be compared has no number."""
    values: dict[str, Any] = {**to_dict(m), "ok": m.ok}
    return values | {"measured": m.measured if math.isfinite(m.measured) else None}
