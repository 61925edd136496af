"""The verb `parity`: parity.json, report.html and the lines on stdout, from the ladder's measurements.

Imports NumPy, core and eval's own modules: no framework, no twin.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.config import to_dict
from core.images import write_atomically
from core.model.unet_spec import count_parameters
from eval.page import Cell, Figure, Figures, Notice, Section, Table, Text, render
from eval.parity import rungs_core, rungs_images, rungs_network, rungs_training
from eval.parity.closeness import NotCloseError
from eval.parity.ladder import Board, Measurement, Rung, Subject, climb, open_subject, start_twins
from eval.plots import image_grid, line_plot
from eval.twins import Framework

RUNGS = {
    1: "schedules and tables",
    2: "names and shapes of parameters",
    3: "forward noise",
    4: "samplers in closed form",
    5: "layers and network",
    6: "gradients and training",
    7: "checkpoint there and back",
    8: "a run that changes frameworks",
    9: "same seed, same image",
}
SHOWN = 8
"""Images of the report's grids."""


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
        (4, rungs_core.samplers),
        (5, rungs_network.layers),
        (5, rungs_network.network),
        (6, rungs_network.gradients),
        (6, rungs_training.steps_of_training),
        (7, rungs_training.checkpoint),
        (8, rungs_training.going_on),
        (9, rungs_images.images(images, ddpm_images)),
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
    pythons: Mapping[Framework, str | None],
) -> str:
    """Climb the ladder and write the report.

    Args:
        config, checkpoint: what open_subject() takes.
        out: folder for parity.json and report.html.
        images, ddpm_images, long_steps: as all_rungs().
        pythons: framework -> its interpreter, as find_python's override.
    Returns:
        What to print on stdout.
    Raises:
        ValueError: input that the user must change. NotCloseError: a rung is red; the report is written all the same.
        RuntimeError: a worker failed. OSError: the report cannot be written.
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
    with tqdm(total=len(rungs), desc="parity", unit="rung", dynamic_ncols=True) as bar, start_twins(pythons) as twins:

        def begin(what: str) -> None:
            bar.update(bar.n < len(rungs) and bool(bar.postfix))
            bar.set_postfix_str(what)

        board = climb(twins, subject, rungs, begin)
        bar.update()
        environments = {name: worker.call("describe")[1] for name, worker in twins.items()}
    result = {
        "subject": subject.name,
        "command": _command(config, checkpoint, out, images, ddpm_images, long_steps),
        "ok": all(m.ok for m in board.measurements),
        "seconds": round(time.monotonic() - started, 1),
        "parameters": count_parameters(subject.config),
        "rungs": [_entry(m) for m in board.measurements],
        "curves": board.curves,
        "environments": environments,
        "recipe": to_dict(subject.recipe),
    }
    text = json.dumps(result, indent=1, allow_nan=False)
    write_atomically(folder / "parity.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    title = "The frameworks agree" if result["ok"] else "The frameworks differ"
    lead = f"{subject.name}, {result['parameters']:,} parameters, in PyTorch and TensorFlow."
    render(folder / "report.html", title, sections(board, subject, result), lead=lead)
    red = [m for m in board.measurements if not m.ok]
    if red:
        first = red[0]
        raise NotCloseError(
            f"{len(red)} of {len(board.measurements)} comparisons are red, the first on rung {first.rung}: "
            f"{first.quantity} ({first.dtype}) differs by {first.measured:.3g}, tolerance {first.tolerance:.3g}, "
            f"{first.where}; see {folder / 'report.html'}"
        )
    return f"{text_table(board)}\n\nall {len(board.measurements)} comparisons hold; wrote {folder / 'report.html'}"


def _command(config: str, checkpoint: str | None, out: str, images: int, ddpm_images: int, long_steps: int) -> str:
    subject = f"--checkpoint {checkpoint}" if checkpoint else f"--config {config}"
    numbers = f"--images {images} --ddpm-images {ddpm_images} --long-steps {long_steps}"
    return f"python -m eval parity {subject} {numbers} --out {out}"


def _entry(m: Measurement) -> dict[str, Any]:
    """A measurement as JSON; what could not be compared has no number."""
    values: dict[str, Any] = {**to_dict(m), "ok": m.ok}
    return values | {"measured": m.measured if math.isfinite(m.measured) else None}


def summary(board: Board) -> list[tuple[int, str, list[Measurement]]]:
    """(rung, precision, its measurements, the worst by share of its tolerance first), in the ladder's order."""

    def share(m: Measurement) -> float:
        if not m.tolerance:
            return math.inf if m.measured else 0.0
        return m.measured / m.tolerance

    groups: dict[tuple[int, bool], list[Measurement]] = {}
    for m in board.measurements:
        groups.setdefault((m.rung, m.dtype == "float32"), []).append(m)
    return [
        (rung, "float32" if single else "float64", sorted(members, key=share, reverse=True))
        for (rung, single), members in sorted(groups.items())
    ]


def text_table(board: Board) -> str:
    """One line a rung and precision: how many comparisons, and the one nearest its tolerance."""
    rows = [("rung", "", "precision", "comparisons", "nearest its tolerance", "measured", "tolerance")]
    for rung, dtype, (worst, *others) in summary(board):
        unit = f" {worst.unit}" if worst.unit else ""
        numbers = (f"{worst.measured:.1e}{unit}", f"{worst.tolerance:.0e}{unit}")
        rows.append((str(rung), RUNGS[rung], dtype, str(1 + len(others)), worst.quantity, *numbers))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(m: Measurement) -> list[str | Cell]:
    unit = f" {m.unit}" if m.unit else ""
    tone = "good" if m.ok else "poor"
    measured = f"{m.measured:.2e}{unit}" if math.isfinite(m.measured) else "not comparable"
    return [m.quantity, m.dtype, Cell(measured, "" if m.ok else "red", tone), f"{m.tolerance:.0e}{unit}", m.where, m.why]  # type: ignore[arg-type]  # fmt: skip


def sections(board: Board, subject: Subject, result: Mapping[str, Any]) -> list[Section]:
    """Sections of the ladder's page: verdict, summary, what is red, pictures, drift, every rung in full."""
    columns = ["Quantity", "Precision", "Measured", "Tolerance", "Worst element", "Why this tolerance"]
    red = [m for m in board.measurements if not m.ok]
    found: list[Section] = []
    if red:
        where = next((m for m in red if m.quantity.startswith("layer ")), red[0])
        found.append(Notice(f"{len(red)} of {len(board.measurements)} comparisons are red. Look first at: {where.quantity} ({where.dtype})."))  # fmt: skip
        found.append(Table(columns, [_row(m) for m in red], "What is red"))
    rows: list[list[str | Cell]] = []
    for rung, _, members in summary(board):
        worst, bad = members[0], sum(not m.ok for m in members)
        verdict = Cell(f"{len(members) - bad} of {len(members)}", "", "poor" if bad else "good")
        rows.append([f"{rung}. {RUNGS[rung]}", verdict, *_row(worst)[:4]])
    caption = (
        "Largest absolute difference divided by the oracle's largest absolute value, unless a unit stands beside it; of each "
        f"rung the comparison nearest its tolerance. {result['seconds']:.0f} s on this machine: {result['command']}"
    )
    found.append(Table(["Rung", "Hold", *columns[:4]], rows, "The ladder", caption))
    found += [*_pictures(board), *_plots(board)]
    for number, name in RUNGS.items():
        members = [_row(m) for m in board.measurements if m.rung == number]
        if members:
            found.append(Table(columns, members, f"Rung {number}: {name}"))
    keys = list(dict.fromkeys(key for e in result["environments"].values() for key in e))
    made: list[list[str | Cell]] = [[k, *(str(e.get(k, "–")) for e in result["environments"].values())] for k in keys]
    found.append(Table(["", "PyTorch", "TensorFlow"], made, "How it was made"))
    how = (
        "Both frameworks get the same arrays: weights, noise, batches. Training runs have dropout off, since each framework "
        "draws its own masks, batches of 4 simulated lenses, and clip, warm-up, weight decay, accumulation and average all "
        "acting. Layers are compared one by one, TensorFlow's fed with the input that PyTorch's had, so that a layer that "
        "departs is red alone, whatever came before it. Tolerances and their reasons stand in eval/parity/tolerances.py."
    )
    return [*found, Text(how, "How to read this")]


def _pictures(board: Board) -> list[Section]:
    """Samples of both frameworks and their difference, scaled up."""
    if not board.pictures:
        return []
    torch, tensorflow = (board.pictures[name][:SHOWN].astype(np.float64) for name in ("PyTorch", "TensorFlow"))
    apart = tensorflow - torch
    largest = float(np.abs(apart).max())
    scale = 10.0 ** math.floor(-math.log10(largest)) if largest > 0 else 1.0
    grids = [(torch, "PyTorch", False), (tensorflow, "TensorFlow", False), (apart * scale, "Difference", True)]
    caption = f"times {scale:,.0f}; largest {largest * 255:.2g} grey levels of 255"
    figures = [
        Figure(image_grid(images, 4, label=title, signed=signed), title, caption if signed else "")
        for images, title, signed in grids
    ]
    return [Figures(figures, "The same seed in both", "DDIM from the same weights and the same noise.")]


def _plots(board: Board) -> list[Section]:
    """Loss curves laid over each other, and the drift."""
    if not board.curves:
        return []
    captions = {
        "loss": ("Loss", "loss", "Four runs, laid over each other."),
        "loss apart": ("Loss: difference", "relative difference", "Between the frameworks, at equal precision."),
        "weights apart": ("Weights: difference", "relative difference", "Euclidean norm of all weights' difference."),
    }
    figures = []
    for name, (title, y, caption) in captions.items():
        svg = line_plot(board.curves[name], "optimiser step", y, label=title, log_y=True)
        figures.append(Figure(svg, title, caption))
    intro = (
        "In float64 the runs stay together to rounding. In float32 each step rounds differently in each framework, and "
        "training amplifies what it is given: the curves separate without either being wrong."
    )
    return [Figures(figures, "Drift over a longer run", intro)]
