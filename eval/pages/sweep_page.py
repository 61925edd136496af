"""A sweep of samplers as text, as curves and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.measure.distance import PROTOCOL_N
from eval.pages.page import Cell, Figure, Figures, Notice, Prose, Section, Table, render
from eval.pages.plots import as_file, line_plot
from eval.pages.tables import number, text_table


def sweep_text(result: Mapping[str, Any]) -> str:
    """One line a sampler and number of evaluations."""
    lines = [["sampler", "evaluations", "distance", "x floor", "s an image"]]
    for row in result["rows"]:
        ratio, seconds = row["distance"] / result["floor"], row["seconds"] / result["n"]
        lines.append([row["sampler"], str(row["nfe"]), f"{row['distance']:.4g}", f"{ratio:.2f}", number(seconds)])
    head = f"N = {result['n']:,}, {result['extractor']['name']} features; real against real {result['floor']:.4g}"
    return f"{head}\n{text_table(lines)}"


def curves(result: Mapping[str, Any]) -> tuple[str, str]:
    """The distance against evaluations, with the floor, and against seconds, as SVG."""
    counted: dict[str, dict[str, list[float]]] = {}
    timed: dict[str, dict[str, list[float]]] = {}
    for row in result["rows"]:
        for plot, x in ((counted, row["nfe"]), (timed, row["seconds"] / result["n"])):
            curve = plot.setdefault(row["sampler"], {"x": [], "y": []})
            curve["x"].append(x)
            curve["y"].append(row["distance"])
    ends = [min(row["nfe"] for row in result["rows"]), max(row["nfe"] for row in result["rows"])]
    counted["real"] = {"x": ends, "y": [result["floor"]] * 2}
    label = f"Fréchet distance, {result['extractor']['name']} features"
    return (
        line_plot(counted, "evaluations of the network", label, label=label, log_x=True, log_y=True),
        line_plot(timed, "seconds an image", label, label=label, log_x=True, log_y=True),
    )


def picture(result: Mapping[str, Any]) -> str:
    """The curve against evaluations as an SVG file."""
    return as_file(curves(result)[0])


def write_sweep_page(path: Path, result: Mapping[str, Any]) -> None:
    """Write the page: what weakens the numbers, both curves, the table."""
    prose, (by_evaluations, by_seconds) = Prose("sweep"), curves(result)
    figures = [
        Figure(by_evaluations, "By evaluations", prose.evaluations()),
        Figure(by_seconds, "By seconds", prose.seconds()),
    ]
    rows = []
    for row in result["rows"]:
        distance = Cell(f"{row['distance']:.4g}", f"{row['distance'] / result['floor']:.1f} x floor")
        rows.append([row["sampler"], str(row["nfe"]), distance, number(row["seconds"] / result["n"])])
    few = result["n"] < PROTOCOL_N
    sections: list[Section] = [
        *([Notice(prose.few(n=result["n"], protocol=PROTOCOL_N))] if few else []),
        Figures(figures, "Distance"),
        Table(["Sampler", "Evaluations", "Distance", "s an image"], rows, "Every point"),
    ]
    lead = prose.lead(run=result["run"], n=result["n"], spacing=result["spacing"])
    render(path, "Distance against evaluations of the network", sections, lead=lead)
