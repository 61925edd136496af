"""A comparison as sections of a page.

Imports NumPy and eval's own modules: no framework, no twin. The numbers come from `eval.measure.compare.compare`; nothing is
computed here but the choice of pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.measure.compare import REAL
from eval.pages.page import Cell, Figure, Figures, Notice, Section, Table, Text, Tone
from eval.pages.plots import histogram_plot, image_grid, line_plot

Result = dict[str, Any]
POOR_RATIO = 3.0
GRID = 24
GRID_COLUMNS = 6
DEFINITIONS = {
    "ring_radius": "Ring radius",
    "ellipticity": "Ellipticity",
    "flux": "Total flux, intensity·px",
    "peak": "Peak, intensity",
    "sky_noise": "Sky noise, intensity",
}


def number(value: float | None) -> str:
    """A number as it is printed: three significant digits, or a dash."""
    return "–" if value is None else f"{value:.3g}"


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


def unit_of(metric: Mapping[str, Any], result: Result) -> str:
    """A metric's unit, with the result's unit of length."""
    return str(result["protocol"]["length_unit"] if metric["unit"] == "length" else metric["unit"])


def _metric_table(result: Result) -> Table:
    """Every metric with its plain meaning, its floor and each set's value beside it."""
    names = list(result["metrics"][0]["sets"])
    rows = []
    for metric in result["metrics"]:
        unit, floor = unit_of(metric, result), metric["floor"]
        spread = "" if floor["mean"] is None else f"{number(floor['min'])} to {number(floor['max'])}"
        row = [
            Cell(metric["label"] + (f", {unit}" if unit else ""), metric["meaning"]),
            Cell(number(floor["mean"]), spread),
        ]
        for name in names:
            entry = metric["sets"][name]
            row.append(Cell(number(entry["mean"]), _ratio(entry), _tone(entry, floor)))
        rows.append(row)
    splits = result["protocol"]["splits"]
    return Table(
        ["Distance from real images (lower is better)", "Floor, real against real", *names],
        rows,
        "How far from real?",
        f"Each number is the mean over {splits} random cuts of the real images into reference and floor; the floor's "
        "second line is its range. Green: inside that range, so this measure cannot tell the set from real images at this "
        f"N. Red: more than {POOR_RATIO:g} times the floor. Ring radius and the rows below it are Wasserstein distances: how "
        "far the distribution of that quantity must move, on average, to match the real one.",
    )


def _manifest_table(result: Result, manifests: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """How the sets were made, where manifests say so: their plain values, a column a set."""
    plain = {
        name: {k: v for k, v in manifest.items() if isinstance(v, str | int | float)}
        for name, manifest in manifests.items()
    }
    keys = list(dict.fromkeys(key for manifest in plain.values() for key in manifest))
    if not keys:
        return []
    rows = [[key.replace("_", " "), *(str(m.get(key, "–")) for m in plain.values())] for key in keys]
    return [Table(["", *plain], rows, "How they were made", "As written in the manifest beside each set of images.")]


def _grids(sets: Mapping[str, npt.NDArray[Any]]) -> Figures:
    """The first images of every set, not selected."""
    figures = [
        Figure(image_grid(np.asarray(x[:GRID]), GRID_COLUMNS, label=f"{min(GRID, len(x))} images: {name}"), name)
        for name, x in sets.items()
    ]
    return Figures(
        figures,
        "Look at them",
        f"The first {GRID} images of every set, not selected. Single-channel images are shown in false colour, from 0 "
        "(black) to 1 (pale yellow), with the same scale everywhere.",
    )


def _curve_figures(result: Result) -> Figures:
    """Power spectrum and radial profile with their bands."""
    unit = result["protocol"]["length_unit"]
    figures = []
    for key, title, x, y, log, caption in (
        (
            "power_spectrum",
            "Radial power spectrum",
            f"spatial frequency, cycles per {unit}",
            "power, intensity²",
            True,
            "Structure by scale: broad on the left, single pixels on the right. A generated line below the real one on the right means too smooth, above it too noisy.",
        ),
        (
            "radial_profile",
            "Radial profile",
            f"distance from the centre, {unit}",
            "brightness, intensity",
            False,
            "Mean brightness on circles about the centre; the hump is the ring.",
        ),
    ):
        data = result["curves"][key]
        curves = {
            name: {"x": data["x"], "y": s["median"], "low": s["low"], "high": s["high"]}
            for name, s in data["sets"].items()
        }
        figures.append(Figure(line_plot(curves, x, y, label=title, log_y=log), title, caption))
    return Figures(
        figures,
        "Structure",
        "Lines are medians over images; bands hold the middle 68 % of images (16th to 84th percentile).",
    )


def _histogram_figures(result: Result) -> list[Section]:
    """Histograms of what an astronomer measures."""
    unit = result["protocol"]["length_unit"]
    figures = []
    for key, title in DEFINITIONS.items():
        data = result["histograms"][key]
        if data["edges"]:
            axis = f"{title}, {unit}" if key == "ring_radius" else title
            figures.append(Figure(histogram_plot(data["edges"], data["sets"], axis, label=title), title.split(",")[0]))
    intro = (
        "One number an image, counted over each set. A good generator repeats the grey shape, width and tails included."
    )
    return [Figures(figures, "Measured on each image", intro)] if figures else []


def _pairs(images: npt.NDArray[Any], train: npt.NDArray[Any], closest: list[dict[str, Any]], label: str) -> str:
    """Images above their nearest training images."""
    rows = np.concatenate(
        [np.asarray(images[[c["image"] for c in closest]]), np.asarray(train[[c["train"] for c in closest]])]
    )
    return image_grid(rows, len(closest), label=label)


def _nearest_sections(result: Result, sets: Mapping[str, npt.NDArray[Any]], train: npt.NDArray[Any]) -> list[Section]:
    """Did the model copy its training images?"""
    nearest = result["nearest"]
    rows = []
    for name, entry in nearest["sets"].items():
        q, share = entry["quantiles"], entry["share_closer"]
        label = f"{name} (held out)" if name == REAL else name
        rows.append(
            [
                label,
                *(number(q[key]) for key in ("0.01", "0.5", "0.99")),
                f"{100 * share:.1f} %",
                f"{entry['copies']:,}",
            ]
        )
    table = Table(
        [
            "Distance to the nearest training image",
            "1 % lie below",
            "median",
            "99 % lie below",
            "suspiciously near",
            "exact copies",
        ],
        rows,
        "Did it copy?",
        f"Each image's nearest neighbour among {nearest['train_count']:,} training images, as the root of the summed squared "
        "pixel differences. Real images that were held out of training set the yardstick: 1 % of them lie nearer than "
        f"{number(nearest['threshold'])}. Suspiciously near is the share of a set below that; much more than 1 % means copying.",
    )
    histogram = nearest["histogram"]
    plot = Figure(
        histogram_plot(histogram["edges"], histogram["sets"], "distance, intensity", label="distance to training"),
        "Distances to the nearest training image",
        "Copies would pile up on the left, away from the grey shape.",
    )
    pairs = [
        Figure(_pairs(images, train, nearest["sets"][name]["closest"], f"{name} and nearest training images"), name)
        for name, images in sets.items()
    ]
    intro = "Above, the images of each set that lie nearest to a training image; below each, that training image."
    return [table, Figures([plot]), Figures(pairs, intro=intro)]


def compare_sections(
    result: Result,
    real: npt.NDArray[Any],
    generated: Mapping[str, npt.NDArray[Any]],
    train: npt.NDArray[Any] | None = None,
    *,
    manifests: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Section]:
    """Sections of a page that show a comparison.

    Args:
        result: what `compare` returned for these very images.
        real, generated, train: the images given to `compare`.
        manifests: name of a generated set -> how it was made; plain values are shown.
    Returns:
        Sections for `eval.pages.page.render`: warnings, pictures, metrics, plots, nearest training images.
    """
    protocol, sets = result["protocol"], {REAL: real, **generated}
    height, width, _ = protocol["image_shape"]
    sections: list[Section] = [Notice(text) for text in result["warnings"]]
    sections.append(
        Text(
            f"Images from {len(generated)} generated {'set' if len(generated) == 1 else 'sets'} are held against real "
            f"ones, N = {protocol['n']:,} on each side, {height} by {width} pixels. "
            "The question is not whether a distance is zero: two halves of the real images differ too, by chance. That "
            "difference is the floor, and no generator can be expected to pass below it. So every distance is printed beside its floor.",
            "What is compared",
        )
    )
    sections.append(_grids(sets))
    sections.append(_metric_table(result))
    sections.append(_curve_figures(result))
    sections += _histogram_figures(result)
    if train is not None:
        sections += _nearest_sections(result, sets, train)
    return sections + _manifest_table(result, manifests or {})
