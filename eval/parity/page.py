"""The ladder's page and its lines on stdout, from what was measured.

Imports NumPy, core and eval's own modules: no framework, no twin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from eval.pages.page import Cell, Figure, Figures, Notice, Section, Table, Text
from eval.pages.plots import image_grid, line_plot
from eval.parity.ladder import Board, Measurement, Subject

RUNGS = {
    1: "schedules and tables",
    2: "names and shapes of parameters",
    3: "forward noise and batches",
    4: "samplers in closed form",
    5: "layers and network",
    6: "gradients and training",
    7: "checkpoint there and back",
    8: "a run that changes frameworks",
    9: "same seed, same image",
}
SHOWN = 8
"""Images of the report's grids."""


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
    measured, tolerance = _numbers(m)
    return [m.quantity, m.dtype, measured, tolerance, m.where, m.why]


def _numbers(m: Measurement) -> tuple[Cell, str]:
    """Measured and tolerance."""
    unit = f" {m.unit}" if m.unit else ""
    measured = f"{m.measured:.2e}" if math.isfinite(m.measured) else "not comparable"
    return Cell(
        measured, m.unit if m.ok else f"{m.unit} red".strip(), "good" if m.ok else "poor"
    ), f"{m.tolerance:.0e}{unit}"


def sections(board: Board, subject: Subject, result: Mapping[str, Any]) -> list[Section]:
    """Sections of the ladder's page: verdict, summary, what is red, pictures, drift, every rung in full."""
    columns = ["Quantity", "Precision", "Measured", "Tolerance", "Worst element", "Why this tolerance"]
    red = [m for m in board.measurements if not m.ok]
    found: list[Section] = []
    if red:
        where = next((m for m in red if m.quantity.startswith("layer ")), red[0])
        found.append(Notice(f"{len(red)} of {len(board.measurements)} comparisons are red. Look first at: {where.quantity} ({where.dtype})."))  # fmt: skip
        if board.left_out:
            found.append(Notice(f"The climb ended there, as --stop-at-red asks: {board.left_out} of the ladder's parts were not run."))  # fmt: skip
        found.append(Table(columns, [_row(m) for m in red], "What is red"))
    rows: list[list[str | Cell]] = []
    for rung, dtype, members in summary(board):
        worst, bad = members[0], sum(not m.ok for m in members)
        verdict = Cell(f"{len(members) - bad} of {len(members)}", dtype, "poor" if bad else "good")
        rows.append([Cell(f"{rung}. {RUNGS[rung]}", worst.quantity), verdict, *_numbers(worst)])
    caption = (
        "Largest absolute difference divided by the oracle's largest absolute value, unless a unit stands beside it; of each "
        f"rung the comparison nearest its tolerance, named below it. {result['seconds']:.0f} s on this machine: {result['command']}"
    )
    found.append(Table(["Rung", "Hold", "Measured", "Tolerance"], rows, "The ladder", caption))
    found += [*_pictures(board), *_plots(board)]
    for number, name in RUNGS.items():
        members = [_row(m) for m in board.measurements if m.rung == number]
        if members:
            found.append(Table(columns, members, f"Rung {number}: {name}"))
    keys = list(dict.fromkeys(key for e in result["environments"].values() for key in e))
    made: list[list[str | Cell]] = [[k, *(str(e.get(k, "–")) for e in result["environments"].values())] for k in keys]
    found.append(Table(["", "PyTorch", "TensorFlow"], made, "How it was made"))
    how = (
        "What both frameworks take from core is held against formulas written out anew (rungs 1 to 4), since a fault there "
        "alters both alike. Both then get the same arrays: weights, noise, batches. Training runs have dropout off, since "
        "each framework draws its own masks, batches of 4 simulated lenses, and clip, warm-up, weight decay, accumulation "
        "and average all acting. Layers are compared one by one, TensorFlow's fed with the input that PyTorch's had, so that "
        "a layer that departs is red alone, whatever came before it. The run of twenty steps is one: it is looked at after 1, 10 "
        "and 20, and what goes on from it elsewhere is held against it. Tolerances and their reasons stand in "
        "eval/parity/tolerances.py."
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
    scaled = f"times {scale:,.0f}; largest {largest * 255:.2g} grey levels of 255"
    grids = [(torch, "PyTorch", False), (tensorflow, "TensorFlow", False), (apart * scale, "Difference", True)]
    figures = [
        Figure(image_grid(images, 4, label=title, signed=signed), title, scaled if signed else "")
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
