"""The numbers of the baseline study: distances over several seeds, and their table as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.measure.compare import compare
from eval.pages.tables import markdown_table, number, span
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
    """The metrics as Markdown, a row a way: mean, spread over the seeds, and the ratio to the floor.

    Args:
        metrics: as measure() gives them.
        ranges: way -> smallest and largest pixel before it was brought to [0, 1].
    """

    def floor_cell(floor: Mapping[str, Any]) -> str:
        return f"{number(floor['mean'])} ({span(floor['min'], floor['max'], '–')})"

    def cell(metric: Mapping[str, Any], name: str) -> str:
        way, floor = metric["ways"][name], metric["floor"]["mean"]
        times = f", {way['mean'] / floor:.1f}×" if floor and way["mean"] is not None else ""
        return f"{number(way['mean'])} ± {number(way['spread'])}{times}"

    rows = [["floor: real against real", *(floor_cell(metric["floor"]) for metric in metrics), ""]]
    for name, (low, high) in ranges.items():
        rows.append([name, *(cell(metric, name) for metric in metrics), f"{low:.2f} to {high:.2f}"])
    return markdown_table(["", *(metric["label"] for metric in metrics), "range before scaling"], rows) + "\n"
