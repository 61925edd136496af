"""What generated images are worth for training, as text and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.measure.utility import GENERATED, REAL
from eval.pages.page import Cell, Figure, Figures, Notice, Prose, Section, Table, Tone, render
from eval.pages.plots import line_plot
from eval.pages.tables import text_table

Result = Mapping[str, Any]
SCORES = {"accuracy": "accuracy", "R2": "R²"}


def _span(entry: Mapping[str, float]) -> str:
    """An interval."""
    return f"[{entry['low']:.3f}, {entry['high']:.3f}]"


def utility_text(result: Result) -> str:
    """The scores as aligned columns of plain text."""
    counts = result["counts"]
    lines = [["learned", "score", "N", "real", "", "generated", "", "difference", ""]]
    for name, target in result["targets"].items():
        for row in target["rows"]:
            cells = [
                part
                for key in (REAL, GENERATED, "difference")
                for part in (f"{row[key]['value']:.3f}", _span(row[key]))
            ]
            lines.append([name, SCORES[target["score"]], f"{row['n']:,}", *cells])
    head = (
        f"tested on {counts['test']:,} real images; {counts['train']:,} real and {counts['generated']:,} generated "
        f"images for training, {result['repetitions']} repetitions"
    )
    return f"{head}\n{text_table(lines, left=2)}"


def _tone(row: Mapping[str, Any]) -> Tone:
    """good: inside what other real images do; poor: the difference is certain."""
    if row[REAL]["low"] <= row[GENERATED]["value"]:
        return "good"
    return "poor" if row["difference"]["high"] < 0 else ""


def write_utility_page(path: Path, result: Result) -> None:
    """Write the page: the curves of every target, and the table.

    Raises:
        OSError: the page cannot be written.
    """
    prose, figures = Prose("utility"), []
    rows: list[list[str | Cell]] = []
    for name, target in result["targets"].items():
        curves = {
            side: {
                "x": [row["n"] for row in target["rows"]],
                "y": [row[side]["value"] for row in target["rows"]],
                "low": [row[side]["low"] for row in target["rows"]],
                "high": [row[side]["high"] for row in target["rows"]],
            }
            for side in (REAL, GENERATED)
        }
        score = SCORES[target["score"]]
        plot = line_plot(curves, "training images", score, label=f"{score} of {name}", log_x=True)
        figures.append(Figure(plot, f"{name}, {score}"))
        for row in target["rows"]:
            cells = [
                Cell(f"{row[key]['value']:.3f}", _span(row[key]), _tone(row) if key == GENERATED else "")
                for key in (REAL, GENERATED, "difference")
            ]
            rows.append([f"{name}, {score}", f"{row['n']:,}", *cells])
    sections: list[Section] = [
        *(Notice(text) for text in result["warnings"]),
        Figures(figures, "Scores on real images", prose.curves()),
        Table(["Learned", "N", "From real images", "From generated", "Difference"], rows, "Every score", prose.table()),
    ]
    lead = prose.lead(counts=result["counts"], repetitions=result["repetitions"])
    render(path, "What generated images are worth for training", sections, lead=lead)
