"""The result of `eval fid` as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.measure.distance import FLOOR_DRAWS as DRAWS
from eval.measure.distance import lens_parameter_metrics
from eval.measure.metrics import rows
from eval.pages.tables import number, text_table


def fid_text(result: Mapping[str, Any]) -> str:
    """The numbers, one a line, with what they were measured on; then the warnings."""
    frechet, extractor = result["frechet"], result["extractor"]
    interval = f"  [{frechet['low']:.4g}, {frechet['high']:.4g}]" if "low" in frechet else ""
    resize = f", {extractor['resize']}" if extractor["name"] == "inception" else ""
    unit = f"{extractor['name']}, {extractor['tap']}{resize}"
    lines = [("Fréchet distance", f"{frechet['value']:.4g}{interval}", unit)]
    if "floor" in result:
        floor, infinity = result["floor"], result["infinity"]
        same = list(floor["n"].values()) == list(result["n"].values())
        n = "the same N" if same else f"N = {floor['n']['real']:,} and {floor['n']['other']:,}, {floor['of']}"
        lines.append(("  real against real", f"{floor['mean']:.4g} ± {floor['std']:.2g}", f"{n}, {DRAWS} draws"))
        if not same:
            lines.append(("  generated, at that N", f"{frechet['at_floor_n']:.4g}", "read it against the line above"))
        if infinity:
            limit = f"{infinity['value']:.4g} ± {infinity['standard_error']:.2g}"
            lines.append(("  for infinite N", limit, "extrapolated in 1/N"))
    lines += [
        (metric.label, metric.text(result[metric.key]), metric.meaning)
        for metric in rows("features", "inception")
        if metric.key in result
    ]
    seen = result.get("lens", {})
    if seen:
        known = lens_parameter_metrics()
        for name, entry in seen["parameters"].items():
            lines.append((known[name].label, number(entry["value"]), f"floor {number(entry['floor'])}"))
        if seen["class_agreement"] is not None:
            share = f"{seen['class_agreement']:.3f}"
            lines.append(("Class as conditioned", share, "share of generated images in which their class is found"))
    counts = (
        f"N = {'unknown' if count is None else format(count, ',')} {side} ({result['n_why'][side]})"
        for side, count in result["n"].items()
    )
    notes = [f"assumed: {text}" for text in result["assumed"]] + [f"warning: {text}" for text in result["warnings"]]
    return "\n".join(["; ".join(counts), text_table(lines, left=3), *notes])
