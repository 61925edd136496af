"""The ladder's page and its lines on stdout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from core.images import note_of_strips, strip_columns
from eval.pages.page import Cell, Figure, Figures, Notice, Prose, Section, Table, Text
from eval.pages.plots import image_grid, line_plot
from eval.pages.tables import side_by_side, text_table
from eval.parity.ladder import Board, Measurement
from eval.twins.interpreters import TITLES

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
    10: "several processes",
}
COLUMNS = ("Quantity", "Precision", "Measured", "Tolerance", "Worst element", "Why this tolerance")
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


def ladder_text(board: Board) -> str:
    """One line a rung and precision: how many comparisons, and the one nearest its tolerance."""
    rows = [("rung", "", "precision", "comparisons", "nearest its tolerance", "measured", "tolerance")]
    for rung, dtype, (worst, *others) in summary(board):
        unit = f" {worst.unit}" if worst.unit else ""
        numbers = (f"{worst.measured:.1e}{unit}", f"{worst.tolerance:.0e}{unit}")
        rows.append((str(rung), RUNGS[rung], dtype, str(1 + len(others)), worst.quantity, *numbers))
    return text_table(rows, left=len(rows[0]))


def _row(m: Measurement) -> list[str | Cell]:
    return [m.quantity, m.dtype, *_numbers(m), m.where, m.why]


def _numbers(m: Measurement) -> tuple[Cell, str]:
    """Measured and tolerance."""
    unit = f" {m.unit}" if m.unit else ""
    measured = f"{m.measured:.2e}" if math.isfinite(m.measured) else "not comparable"
    detail = m.unit if m.ok else f"{m.unit} red".strip()
    return Cell(measured, detail, "good" if m.ok else "poor"), f"{m.tolerance:.0e}{unit}"


def _verdict(board: Board, prose: Prose) -> list[Section]:
    """What is red; nothing where all comparisons hold."""
    red = [m for m in board.measurements if not m.ok]
    if not red:
        return []
    first = next((m for m in red if m.quantity.startswith("layer ")), red[0])
    found: list[Section] = [Notice(prose.red(red=len(red), all=len(board.measurements), first=first))]
    if board.left_out:
        found.append(Notice(prose.left_out(parts=board.left_out)))
    return [*found, Table(COLUMNS, [_row(m) for m in red], "What is red")]


def sections(board: Board, result: Mapping[str, Any]) -> list[Section]:
    """Sections of the ladder's page: verdict, summary, what is red, pictures, drift, every rung in full."""
    prose = Prose("parity")
    rows: list[list[str | Cell]] = []
    for rung, dtype, members in summary(board):
        worst, bad = members[0], sum(not m.ok for m in members)
        verdict = Cell(f"{len(members) - bad} of {len(members)}", dtype, "poor" if bad else "good")
        rows.append([Cell(f"{rung}. {RUNGS[rung]}", worst.quantity), verdict, *_numbers(worst)])
    caption = prose.ladder(seconds=result["seconds"], command=result["command"])
    in_full: list[Section] = []
    for number, name in RUNGS.items():
        members_in_full = [_row(m) for m in board.measurements if m.rung == number]
        if members_in_full:
            in_full.append(Table(COLUMNS, members_in_full, f"Rung {number}: {name}"))
    return [
        *_verdict(board, prose),
        Table(["Rung", "Hold", "Measured", "Tolerance"], rows, "The ladder", caption),
        *_pictures(board, prose),
        *_plots(board, prose),
        *in_full,
        Table(["", *TITLES.values()], side_by_side(result["environments"]), "How it was made"),
        Text(prose.how(), "How to read this"),
    ]


def _pictures(board: Board, prose: Prose) -> list[Section]:
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
        Figure(
            image_grid(images, strip_columns(images, 4), label=title, signed=signed), title, scaled if signed else ""
        )
        for images, title, signed in grids
    ]
    return [Figures(figures, "The same seed in both", prose.pictures(note=note_of_strips(torch.shape[-1])))]


def _plots(board: Board, prose: Prose) -> list[Section]:
    """Loss curves laid over each other, and the drift."""
    if not board.curves:
        return []
    captions = {
        "loss": ("Loss", "loss", prose.loss()),
        "loss apart": ("Loss: difference", "relative difference", prose.loss_apart()),
        "weights apart": ("Weights: difference", "relative difference", prose.weights_apart()),
    }
    figures = []
    for name, (title, y, caption) in captions.items():
        svg = line_plot(board.curves[name], "optimiser step", y, label=title, log_y=True)
        figures.append(Figure(svg, title, caption))
    return [Figures(figures, "Drift over a longer run", prose.drift())]
