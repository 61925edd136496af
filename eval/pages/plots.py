"""Plots as inline SVG and picture grids as inline PNG, for pages that work offline.
 Axes and text are drawn in the page's own text colour, so that one plot serves light and dark pages alike. matplotlib
and pillow are imported inside the functions.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from core.images import in_strips, to_uint8

INK = "#010203"  # stands for the page's text colour until the SVG is written
MOST_INSIDE = 6  # curves whose names still fit into a plot
SHARP_WIDTH = 720  # pixels that a grid has at least
GREY = "#808080"  # seen on light and on dark
PALETTE = [
    "#3b82f6",
    "#f97316",
    "#10b981",
    "#a855f7",
    "#e11d48",
    "#14b8a6",
    "#ca8a04",
    "#64748b",
    "#84cc16",
    "#0369a1",
    "#d946ef",
    "#78350f",
]
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "diptych",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, the same in every plot that lists the same names; "real" is the page's text colour."""
    others = [name for name in names if name != "real"]
    return {"real": INK, **{name: PALETTE[i % len(PALETTE)] for i, name in enumerate(others)}}


def _svg(figure: Any, label: str) -> str:
    """A figure as responsive inline SVG whose ink is the page's text colour."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.04, metadata={"Date": None}
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # group names repeat from plot to plot; ids on a page must not
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(label)}">{rest}'.replace(INK, "currentColor")


def as_file(markup: str) -> str:
    """A plot as an SVG file: its ink is grey, since a file has no text colour to take."""
    return markup.replace("currentColor", GREY)


def _axes(xlabel: str, ylabel: str) -> tuple[Any, Any]:
    """A small figure and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.12, color=INK, linewidth=0.5)
    return figure, axes


def line_plot(
    curves: Mapping[str, Mapping[str, npt.ArrayLike]],
    xlabel: str,
    ylabel: str,
    *,
    label: str,
    log_y: bool = False,
    log_x: bool = False,
    points: bool = False,
) -> str:
    """Curves, with a shaded band where one is given.

    Args:
        curves: name -> {"x", "y"} of (K,) each and, as an option, {"low", "high"}.
        xlabel, ylabel: axis labels with units.
        label: what the plot shows, for readers who cannot see it.
        log_y: logarithmic ordinate; values that are not positive are then left out, and where
            none is positive the ordinate stays linear.
        log_x: logarithmic abscissa.
        points: draw points with bars in place of curves with bands.
    Returns:
        Inline SVG.
    """
    import matplotlib
    from matplotlib.ticker import LogLocator

    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(xlabel, ylabel)
        ink = colours(list(curves))
        for name, curve in curves.items():
            if points and "low" in curve:
                y = np.asarray(curve["y"])
                bars = [y - np.asarray(curve["low"]), np.asarray(curve["high"]) - y]
                axes.errorbar(curve["x"], y, bars, fmt="o", color=ink[name], label=name, markersize=4, capsize=2)
                continue
            axes.plot(curve["x"], curve["y"], color=ink[name], label=name, zorder=3 if name == "real" else 2)
            if "low" in curve:
                axes.fill_between(curve["x"], curve["low"], curve["high"], color=ink[name], alpha=0.13, linewidth=0)
        if log_y and any((np.asarray(curve["y"]) > 0).any() for curve in curves.values()):
            axes.set_yscale("log", nonpositive="mask")
        if log_x:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
        beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(curves) > MOST_INSIDE else {}
        axes.legend(**beside)
        return _svg(figure, label)


def interval_plot(rows: Mapping[str, Mapping[str, Any]], xlabel: str, *, label: str, mark: float) -> str:
    """One row a name: every value as a small dot, the quartiles as a bar, the median as a large dot.

    Args:
        rows: name -> {"median", "q1", "q3", "values"}.
        xlabel: axis label with its unit.
        label: what the plot shows, for readers who cannot see it.
        mark: where a vertical line stands.
    Returns:
        Inline SVG.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 0.5 + 0.24 * len(rows)))
        axes = figure.add_subplot()
        axes.axvline(mark, color=INK, linewidth=0.6)
        for place, row in enumerate(rows.values()):
            axes.plot(row["values"], [place] * len(row["values"]), "o", color=PALETTE[0], alpha=0.3, markersize=2.5)
            axes.plot([row["q1"], row["q3"]], [place] * 2, color=PALETTE[0], linewidth=2.5)
            axes.plot([row["median"]], [place], "o", color=PALETTE[1], markersize=4)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        axes.set_xlabel(xlabel)
        axes.grid(axis="x", alpha=0.12, color=INK, linewidth=0.5)
        return _svg(figure, label)


def histogram_plot(
    edges: npt.ArrayLike,
    shares: Mapping[str, npt.ArrayLike],
    xlabel: str,
    *,
    label: str,
    ylabel: str = "share of images, %",
) -> str:
    """Histograms of several sets on the same bins.

    Args:
        edges: (bins + 1,) edges.
        shares: name -> (bins,) share of the set in each bin.
        xlabel: what is counted, with its unit.
        label: what the plot shows, for readers who cannot see it.
        ylabel: of what the shares are.
    Returns:
        Inline SVG.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(xlabel, ylabel)
        ink = colours(list(shares))
        for name, share in shares.items():
            percent = 100 * np.asarray(share, np.float64)
            if name == "real":
                axes.stairs(percent, edges, color=ink[name], alpha=0.16, fill=True)
            axes.stairs(percent, edges, color=ink[name], label=name, linewidth=1.4)
        axes.set_ylim(bottom=0)
        axes.legend()
        return _svg(figure, label)


def _coloured(images: npt.NDArray[Any], signed: bool) -> npt.NDArray[np.uint8]:
    """(N, H, W, 4) uint8: one channel through a colour map, three as they are, or the first of three where signed."""
    import matplotlib

    values = images if images.shape[-1] == 3 and not signed else images[..., :1]
    if values.shape[-1] == 3:
        rgba = np.concatenate([values, np.ones_like(values[..., :1])], axis=-1)
    else:
        scaled = (values[..., 0] + 1) / 2 if signed else values[..., 0]
        rgba = matplotlib.colormaps["RdBu_r" if signed else "inferno"](np.clip(scaled, 0, 1).astype(np.float64))
    return to_uint8(rgba)


def image_grid(images: npt.NDArray[Any], columns: int, *, label: str, signed: bool = False, gap: int = 2) -> str:
    """Images side by side as one inline PNG, transparent between them.

    Args:
        images: (N, H, W, C); in [0, 1], or in [-1, 1] with signed. One channel is shown in false colour; other numbers
            of channels than three are shown as strips, see core.images.in_strips().
        columns: images a row; `strip_columns` gives a number that suits strips.
        label: what the picture shows, for readers who cannot see it.
        signed: a difference: white is 0, red above, blue below.
        gap: transparent pixels between images.
    Returns:
        An HTML img element.
    Raises:
        ValueError: not (N, H, W, C), no image, columns below 1.
    """
    from PIL import Image

    if images.ndim != 4 or len(images) == 0 or columns < 1:
        raise ValueError(f"images, columns: {images.shape}, {columns}: must be (N, H, W, C), N and columns at least 1")
    tiles = _coloured(in_strips(np.asarray(images)), signed)
    count, height, width, _ = tiles.shape
    rows, columns = -(-count // columns), min(columns, count)
    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = tile
    scale = max(1, -(-SHARP_WIDTH // sheet.shape[1]))  # a browser blurs what it enlarges by a broken factor
    sheet = sheet.repeat(scale, axis=0).repeat(scale, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    size = f'width="{sheet.shape[1]}" height="{sheet.shape[0]}"'
    return f'<img {size} alt="{escape(label)}" src="data:image/png;base64,{data}">'
