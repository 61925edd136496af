"""The numbers of eval/studies/baseline.py: distances over several seeds, and their table as Markdown.

Imports NumPy and eval's own modules: no framework, no twin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.measure.compare import compare
from eval.pages.compare_page import number
from eval.studies.baseline_ways import Images


def measure(real: Images, sets: Sequence[Mapping[str, Images]], pixel_scale: float) -> list[dict[str, Any]]:
    """Every metric with its floor, and of every way the mean over the seeds and half their range.

    Args:
        real: (R, H, W, C) held out, in [0, 1].
        sets: of each seed, way -> (N, H, W, C) in [0, 1].
        pixel_scale: arcsec per pixel.
    """
    results = [compare(real, generated, pixel_scale=pixel_scale)["metrics"] for generated in sets]
    metrics = []
    for rows in zip(*results, strict=True):
        ways = {}
        for name in sets[0]:
            values = [row["sets"][name]["mean"] for row in rows]
            known = None not in values
            spread = (max(values) - min(values)) / 2 if known else None
            ways[name] = {"mean": float(np.mean(values)) if known else None, "spread": spread}
        metrics.append({"label": rows[0]["label"], "unit": rows[0]["unit"], "floor": rows[0]["floor"], "ways": ways})
    return metrics


def table(metrics: Sequence[Mapping[str, Any]], ranges: Mapping[str, tuple[float, float]]) -> str:
    """The metrics as Markdown, a row a way: mean, spread over the seeds, and how many times the floor.

    Args:
        metrics: as measure() gives them.
        ranges: way -> smallest and largest pixel before it was brought to [0, 1].
    """
    heads = ["", *(f"{m['label']}" for m in metrics), "range before scaling"]
    rows = [heads, ["---"] * len(heads)]
    floors = [
        f"{number(m['floor']['mean'])} ({number(m['floor']['min'])}–{number(m['floor']['max'])})" for m in metrics
    ]
    rows.append(["floor: real against real", *floors, ""])
    for name, (low, high) in ranges.items():
        cells = []
        for metric in metrics:
            way, floor = metric["ways"][name], metric["floor"]["mean"]
            times = f", {way['mean'] / floor:.1f}×" if floor and way["mean"] is not None else ""
            cells.append(f"{number(way['mean'])} ± {number(way['spread'])}{times}")
        rows.append([name, *cells, f"{low:.2f} to {high:.2f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
