"""The verb `compare`: files in, compare.json, report.html and a table out.

Imports eval's own modules only: no framework, no twin.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.files import write_atomically
from eval.measure.compare import REAL, compare
from eval.measure.image_sets import load_generated, load_image_set
from eval.pages.compare_page import compare_sections, number, unit_of
from eval.pages.page import render


def text_table(result: dict[str, Any]) -> str:
    """The metrics as aligned columns of plain text, floor first, ratio to the floor behind each value."""
    names = list(result["metrics"][0]["sets"])
    rows = [["metric", "unit", "real-real floor", *(cell for name in names for cell in (name, "x floor"))]]
    for metric in result["metrics"]:
        row = [metric["label"], unit_of(metric, result), number(metric["floor"]["mean"])]
        for name in names:
            entry = metric["sets"][name]
            row += [number(entry["mean"]), "–" if entry["ratio"] is None else f"{entry['ratio']:.2f}"]
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))).rstrip()
        for r in rows
    ]
    return "\n".join([f"N = {result['protocol']['n']:,} images a side", *lines])


def run(
    real: str,
    generated: tuple[str, ...],
    out: str,
    *,
    train: str | None = None,
    pixel_scale: float | None = None,
    seed: int = 0,
    as_json: bool = False,
) -> str:
    """Compare files of images and write the report.

    Args:
        real, train: a path that `load_image_set` reads; generated: one PATH or NAME=PATH a set.
        out: folder for compare.json and report.html.
        pixel_scale: arcsec per pixel; None leaves lengths in pixels.
        seed: of the random cuts of the real set.
        as_json: return compare.json's text rather than the table.
    Returns:
        What to print on stdout.
    Raises:
        ValueError: input that the user must change; OSError: the report cannot be written.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {out}: is a file: must be a folder, or a name that is free")
    reference = load_image_set(real)
    sets = load_generated(generated, (REAL, "train"))
    training = load_image_set(train).images if train is not None else None
    images = {item.name: item.images for item in sets}
    manifests = {item.name: item.manifest for item in sets if item.manifest}
    result = compare(reference.images, images, training, pixel_scale=pixel_scale, seed=seed)
    result["manifests"] = manifests
    text = json.dumps(result, indent=1, allow_nan=False)
    write_atomically(folder / "compare.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    n = result["protocol"]["n"]
    lead = f"{', '.join(images)} against {n:,} real images, measured on pixels and on what an astronomer would measure."
    sections = compare_sections(result, reference.images, images, training, manifests=manifests)
    render(folder / "report.html", "Generated images against real ones", sections, lead=lead)
    if as_json:
        return text
    notes = [f"warning: {warning}" for warning in result["warnings"]]
    return "\n".join([text_table(result), *notes, f"report: {folder / 'report.html'}"])
