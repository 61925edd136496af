"""A comparison as text and as sections of a page. Nothing is computed here but the choice of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.images import note_of_strips, strip_columns
from eval.measure.compare import REAL
from eval.measure.metrics import rows as metric_rows
from eval.pages.page import Cell, Figure, Figures, Notice, Prose, Section, Table, Text, Tone, render
from eval.pages.plots import histogram_plot, image_grid, line_plot
from eval.pages.tables import number, side_by_side, span, text_table

Result = dict[str, Any]
Images = npt.NDArray[Any]
POOR_RATIO = 3.0
GRID = 24
GRID_COLUMNS = 6


def _unit(unit: str, result: Result) -> str:
    """A metric's unit, with the result's unit of length."""
    return str(result["protocol"]["length_unit"]) if unit == "length" else unit


def comparison_text(result: Result) -> str:
    """The metrics as aligned columns of plain text, the floor first and the ratio to it behind each value."""
    names = list(result["metrics"][0]["sets"])
    lines = [["metric", "unit", "real-real floor", *(cell for name in names for cell in (name, "x floor"))]]
    for metric in result["metrics"]:
        line = [metric["label"], _unit(metric["unit"], result), number(metric["floor"]["mean"])]
        for name in names:
            entry = metric["sets"][name]
            line += [number(entry["mean"]), "–" if entry["ratio"] is None else f"{entry['ratio']:.2f}"]
        lines.append(line)
    return f"N = {result['protocol']['n']:,} images a side\n{text_table(lines, left=2)}"


def _ratio(entry: Mapping[str, float | None]) -> str:
    """A ratio to the floor in words."""
    ratio = entry["ratio"]
    return "floor is 0" if ratio is None else f"{ratio:.1f} × floor" if ratio < 100 else f"{ratio:.0f} × floor"


def _tone(entry: Mapping[str, Any], floor: Mapping[str, Any]) -> Tone:
    """good: inside what real images do among themselves; poor: beyond POOR_RATIO times the floor."""
    if entry["mean"] is None or floor["max"] is None:
        return ""
    if entry["mean"] <= floor["max"]:
        return "good"
    return "poor" if entry["mean"] > POOR_RATIO * floor["mean"] else ""


def _metric_table(result: Result, prose: Prose) -> Table:
    """Every metric with its meaning, its floor and each set's value beside it."""
    names = list(result["metrics"][0]["sets"])
    table = []
    for metric in result["metrics"]:
        unit, floor = _unit(metric["unit"], result), metric["floor"]
        label = Cell(metric["label"] + (f", {unit}" if unit else ""), metric["meaning"])
        row = [label, Cell(number(floor["mean"]), span(floor["min"], floor["max"]))]
        for name in names:
            entry = metric["sets"][name]
            row.append(Cell(number(entry["mean"]), _ratio(entry), _tone(entry, floor)))
        table.append(row)
    caption = prose.metrics(splits=result["protocol"]["splits"], poor=POOR_RATIO)
    columns = ["Distance from real images (lower is better)", "Floor, real against real", *names]
    return Table(columns, table, "How far from real?", caption)


def _manifest_table(manifests: Mapping[str, Mapping[str, Any]], prose: Prose) -> list[Section]:
    """How the sets were made, where manifests say so: their plain values, a column a set."""
    plain = {
        name: {key: value for key, value in manifest.items() if isinstance(value, str | int | float)}
        for name, manifest in manifests.items()
    }
    made = side_by_side(plain)
    return [Table(["", *plain], made, "How they were made", prose.manifests())] if made else []


def _grids(sets: Mapping[str, Images], prose: Prose) -> Figures:
    """The first images of every set, not selected."""
    figures = [
        Figure(_grid(np.asarray(x[:GRID]), f"{min(GRID, len(x))} images: {name}"), name) for name, x in sets.items()
    ]
    note = note_of_strips(sets[REAL].shape[-1])
    return Figures(figures, "Look at them", prose.grids(count=GRID, note=note))


def _grid(images: Images, label: str) -> str:
    return image_grid(images, strip_columns(images, GRID_COLUMNS), label=label)


def _curve_figures(result: Result, prose: Prose) -> Figures:
    """Power spectrum and radial profile with their bands."""
    unit = result["protocol"]["length_unit"]
    spectrum = ("Radial power spectrum", f"spatial frequency, cycles per {unit}", "power, intensity²", prose.spectrum())
    profile = ("Radial profile", f"distance from the centre, {unit}", "brightness, intensity", prose.profile())
    figures = []
    for key, (title, x, y, caption) in {"power_spectrum": spectrum, "radial_profile": profile}.items():
        data = result["curves"][key]
        curves = {
            name: {"x": data["x"], "y": s["median"], "low": s["low"], "high": s["high"]}
            for name, s in data["sets"].items()
        }
        plot = line_plot(curves, x, y, label=title, log_y=key == "power_spectrum")
        figures.append(Figure(plot, title, caption))
    return Figures(figures, "Structure", prose.curves())


def _histogram_figures(result: Result, prose: Prose) -> list[Section]:
    """Histograms of the metrics that compare one number an image."""
    figures = []
    for metric in metric_rows("images"):
        data = result["histograms"].get(metric.key)
        if data and data["edges"]:
            unit = _unit(metric.unit, result)
            axis = f"{metric.label}, {unit}" if unit else metric.label
            plot = histogram_plot(data["edges"], data["sets"], axis, label=metric.label)
            figures.append(Figure(plot, metric.label))
    return [Figures(figures, "Measured on each image", prose.histograms())] if figures else []


def _pairs(images: Images, train: Images, closest: Sequence[Mapping[str, Any]], label: str) -> str:
    """Images above their nearest training images."""
    pairs = [np.asarray(images[[c["image"] for c in closest]]), np.asarray(train[[c["train"] for c in closest]])]
    return image_grid(np.concatenate(pairs), len(closest), label=label)


def _nearest_sections(result: Result, sets: Mapping[str, Images], train: Images, prose: Prose) -> list[Section]:
    """Did the network copy its training images?"""
    nearest = result["nearest"]
    rows = []
    for name, entry in nearest["sets"].items():
        quantiles = [number(entry["quantiles"][key]) for key in ("0.01", "0.5", "0.99")]
        label = f"{name} (held out)" if name == REAL else name
        rows.append([label, *quantiles, f"{100 * entry['share_closer']:.1f} %", f"{entry['copies']:,}"])
    columns = [
        "Distance to the nearest training image",
        "1 % lie below",
        "median",
        "99 % lie below",
        "suspiciously near",
        "exact copies",
    ]
    caption = prose.nearest(train=nearest["train_count"], threshold=nearest["threshold"])
    histogram = nearest["histogram"]
    plot = histogram_plot(histogram["edges"], histogram["sets"], "distance, intensity", label="distance to training")
    pairs = [
        Figure(_pairs(images, train, nearest["sets"][name]["closest"], f"{name} and nearest training images"), name)
        for name, images in sets.items()
    ]
    return [
        Table(columns, rows, "Did it copy?", caption),
        Figures([Figure(plot, "Distances to the nearest training image", prose.nearest_plot())]),
        Figures(pairs, intro=prose.pairs()),
    ]


def compare_sections(
    result: Result,
    real: Images,
    generated: Mapping[str, Images],
    train: Images | None = None,
) -> list[Section]:
    """Sections of a page that show a comparison.

    Args:
        result: what `compare` returned for these images and, as `manifests`, how each generated set was made.
        real, generated, train: the images given to `compare`.
    Returns:
        Sections for `eval.pages.page.render`: warnings, pictures, metrics, plots, nearest training images.
    """
    protocol, sets, prose = result["protocol"], {REAL: real, **generated}, Prose("compare")
    height, width, _ = protocol["image_shape"]
    what = prose.what(sets=len(generated), n=protocol["n"], height=height, width=width)
    return [
        *(Notice(text) for text in result["warnings"]),
        Text(what, "What is compared"),
        _grids(sets, prose),
        _metric_table(result, prose),
        _curve_figures(result, prose),
        *_histogram_figures(result, prose),
        *(_nearest_sections(result, sets, train, prose) if train is not None else []),
        *_manifest_table(result.get("manifests", {}), prose),
    ]


def write_compare_page(
    path: Path, result: Result, real: Images, generated: Mapping[str, Images], train: Images | None = None
) -> None:
    """Write the page of a comparison; the arguments are compare_sections'.

    Raises:
        OSError: the page cannot be written.
    """
    lead = Prose("compare").lead(names=", ".join(generated), n=result["protocol"]["n"])
    sections = compare_sections(result, real, generated, train)
    render(path, "Generated images against real ones", sections, lead=lead)
