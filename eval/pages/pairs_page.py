"""Restored images as text and as a page. Nothing is computed here but the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.images import note_of_strips, shown_as
from eval.measure.image_sets import Images
from eval.pages.page import Cell, Figure, Figures, Notice, Prose, Section, Table, render
from eval.pages.plots import histogram_plot, image_grid, line_plot
from eval.pages.tables import number, span, text_table

Result = Mapping[str, Any]
SHOWN = 8
"""Images in the picture."""
PLOTTED = ("pixels", "lens_theta_e", "ring_radius", "flux")
"""Numbers whose ranks and coverage are plotted, where they are measured."""
QUALITY = {"psnr": "PSNR, dB", "ssim": "SSIM", "mse": "Squared error", "chi_squared": "Residual χ² a measured value"}
GAIN = {"psnr": "PSNR gain, dB", "ssim": "SSIM gain"}


def _text(estimate: Mapping[str, float] | None, form: str = ".4g") -> str:
    """A number with its interval."""
    if not estimate or "value" not in estimate:
        return "–"
    return f"{estimate['value']:{form}} [{estimate['low']:{form}}, {estimate['high']:{form}}]"


def _unit(entry: Mapping[str, Any], result: Result) -> str:
    return str(result["length_unit"]) if entry["unit"] == "length" else str(entry["unit"])


def _quality_rows(result: Result) -> list[list[str]]:
    """One line a set: its errors, then its gains over bicubic."""
    keys = [key for key in QUALITY if any(key in columns for columns in result["quality"].values())]
    gains = [key for key in GAIN if result["gain"]]
    head = ["", *(QUALITY[key] for key in keys), *(GAIN[key] for key in gains)]
    lines = [head]
    for name, columns in result["quality"].items():
        gained = result["gain"].get(name, {})
        lines.append([name, *(_text(columns.get(key)) for key in keys), *(_text(gained.get(key)) for key in gains)])
    return lines


def pairs_text(result: Result) -> str:
    """The figures as aligned columns of plain text."""
    names = list(next(iter(result["physics"].values()))["sets"])
    physics = [["mean absolute error", "unit", "spread of truth", *names]]
    for entry in result["physics"].values():
        cells = [_text(entry["sets"][name]["error"], ".3g") for name in names]
        physics.append([entry["label"], _unit(entry, result), number(entry["std_of_truth"]), *cells])
    parts = [f"N = {result['n']:,}, {result['draws']} a true image", text_table(_quality_rows(result)), ""]
    parts.append(text_table(physics, left=2))
    if result["calibration"]:
        rows = [["coverage of central intervals", *_levels(result), "p of equal ranks"]]
        for entry in result["calibration"]["statistics"].values():
            found = [f"{level.get('value', np.nan):.3f}" for level in entry["coverage"]]
            rows.append([entry["label"], *found, number(entry["p"])])
        ratio = f"spread of draws / error of their mean: {_text(result['calibration']['spread_over_error'], '.3g')}"
        parts += ["", text_table(rows), ratio]
    return "\n".join(parts)


def _levels(result: Result) -> list[str]:
    """The nominal levels of coverage."""
    return [f"{level['nominal']:.3f}" for level in result["calibration"]["statistics"]["pixels"]["coverage"]]


def _pictures(truth: Images, draws: Images, inputs: Images | None, prose: Prose) -> Figures:
    """A row an image: input, bicubic, mean, deviation, one draw, truth."""
    true, several = np.asarray(truth[:SHOWN]), draws[:SHOWN]
    shape, columns, widest = (true.shape[1], true.shape[2], true.shape[3]), [], 0.0
    if inputs is not None:
        columns += [_as_squares(inputs[:SHOWN], shape), shown_as(inputs[:SHOWN], shape)]
    if draws.shape[1] > 1:
        deviation = several.std(axis=1, ddof=1)
        widest = float(deviation.max())
        columns += [several.mean(axis=1), deviation / (widest or 1.0)]
    columns += [several[:, 0], true]
    images = np.stack([np.asarray(column, np.float32) for column in columns], axis=1)
    markup = image_grid(images.reshape(-1, *shape), len(columns), label="restored images beside the truth")
    caption = prose.pictures(
        count=len(true),
        several=draws.shape[1] > 1,
        inputs=inputs is not None,
        widest=widest,
        note=note_of_strips(shape[2]),
    )
    return Figures([Figure(markup, "Restored images", caption)], "Look at them", wide=True)


def _as_squares(inputs: Images, shape: tuple[int, int, int]) -> Images:
    """Inputs with each pixel as a square, at the size and number of channels of the truth."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(shape[:2], inputs.shape[1:3], strict=True))
    return shown_as(np.asarray(inputs)[:, rows][:, :, columns], shape)


def _physics_table(result: Result, prose: Prose) -> Table:
    names = list(next(iter(result["physics"].values()))["sets"])
    rows = []
    for entry in result["physics"].values():
        unit = _unit(entry, result)
        row: list[str | Cell] = [entry["label"] + (f", {unit}" if unit else ""), number(entry["std_of_truth"])]
        for name in names:
            found = entry["sets"][name]
            bias, w1 = (number(found[key] and found[key]["value"]) for key in ("bias", "w1"))
            left = f", {found['left_out']} left out" if found["left_out"] else ""
            row.append(Cell(_text(found["error"], ".3g"), f"bias {bias}, W1 {w1}{left}"))
        rows.append(row)
    caption = prose.physics(level=result["level"], unit=result["length_unit"])
    return Table(["Error of", "Spread of truth", *names], rows, "Does the physics survive?", caption)


def _calibration_sections(result: Result, prose: Prose) -> list[Section]:
    """Rank histograms, coverage and the tests."""
    statistics, k = result["calibration"]["statistics"], result["draws"]
    shown = {entry["label"]: entry for key, entry in statistics.items() if key in PLOTTED}
    edges = np.arange(k + 2) - 0.5
    ranks = {name: entry["ranks"] for name, entry in shown.items()} | {"uniform": [1 / (k + 1)] * (k + 1)}
    histogram = histogram_plot(edges, ranks, "rank of the truth", label="rank histogram", ylabel="share, %")
    figures = [Figure(histogram, "Rank histogram", prose.ranks(draws=k))]
    if len(statistics["pixels"]["coverage"]) > 1:
        curves = {
            name: {
                "x": [level["nominal"] for level in entry["coverage"]],
                "y": [level["value"] for level in entry["coverage"]],
                "low": [level["low"] for level in entry["coverage"]],
                "high": [level["high"] for level in entry["coverage"]],
            }
            for name, entry in shown.items()
        }
        plot = line_plot(
            {**curves, "as it should be": {"x": [0, 1], "y": [0, 1]}},
            "nominal coverage",
            "coverage found",
            label="coverage",
        )
        figures.append(Figure(plot, "Coverage of central intervals", prose.coverage()))
    rows = []
    for entry in statistics.values():
        cells = [
            Cell(number(level.get("value")), span(level.get("low"), level.get("high"))) for level in entry["coverage"]
        ]
        rows.append([entry["label"], f"{entry['n']:,}", *cells, number(entry["p"])])
    caption = prose.calibration(ratio=result["calibration"]["spread_over_error"])
    table = Table(["Coverage of", "images", *_levels(result), "p"], rows, "Every number", caption)
    return [Figures(figures, "Are the draws calibrated?"), table]


def write_pairs_page(path: Path, result: Result, truth: Images, draws: Images, inputs: Images | None) -> None:
    """Write the page.

    Args:
        path: file to write.
        result: of `eval.measure.pairs.measure_pairs` for these images.
        truth, draws, inputs: as given to it.
    Raises:
        OSError: the page cannot be written.
    """
    prose, (head, *rows) = Prose("pairs"), _quality_rows(result)
    sections: list[Section] = [
        *(Notice(text) for text in result["warnings"]),
        _pictures(truth, draws, inputs, prose),
        Table(head, rows, "How near to the truth?", prose.quality(level=result["level"])),
        _physics_table(result, prose),
        *(_calibration_sections(result, prose) if result["calibration"] else []),
    ]
    height, width = result["image_shape"][:2]
    lead = prose.lead(n=result["n"], draws=result["draws"], height=height, width=width)
    render(path, "Restored images against the truth", sections, lead=lead)
